"""A model built anew with fewer channels: layers of smaller settings on the same graph, the kept weights copied."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Ints, Role
from pipeline.compress.training.layer_roles import Cut
from pipeline.compress.training.model_graph import Call, Input, ModelGraph, fill, flat, run
from pipeline.compress.training.parting import parts_of


@dataclass(frozen=True)
class Rebuilt:
    """The new model, and its layers by the names of the graph's calls."""

    model: Any
    layers: Mapping[str, Any]


def rebuild(graph: ModelGraph, channels: Channels, removed: Collection[int], parted: Collection[str] = ()) -> Rebuilt:
    """Build the graph without the strands ``removed``; names, shapes and dtypes of inputs and outputs stay.

    Tables whose names are in ``parted`` become two where they are wide enough. The new model shares no weight with the
    old one and is not compiled. Raises ValueError for a layer that cannot be made from its own settings.
    """
    values = {number: _new_input(graph, entry) for number, entry in graph.entries.items()}
    inputs = fill(graph.inputs, values)
    layers: dict[str, Any] = {}
    for call in graph.calls:
        if call.name in layers:
            run(call, layers[call.name], values)
            continue
        cut = cut_of(call, channels, removed)
        layers[call.name] = _new_layer(call, cut)
        if call.name in parted and call.behaviour.role is Role.LOOK_UP:
            layers[call.name] = parts_of(graph.library, layers[call.name]) or layers[call.name]
        run(call, layers[call.name], values)
        if layers[call.name] is not call.layer:
            _copy_weights(call, layers[call.name], cut)
    outputs = fill(graph.outputs, {**values, **_named_outputs(graph, values)})
    return Rebuilt(graph.library.Model(inputs, outputs, name=graph.name), layers)


def cut_of(call: Call, channels: Channels, removed: Collection[int]) -> Cut | None:
    """Return what stays of a call's input and output channels, None where all do or nothing is known of them."""
    if call.behaviour.role is Role.FIX or len(call.outputs) == 0 or len(call.inputs) == 0:
        return None
    inside, outside = (_kept(tensor, channels, removed) for tensor in (call.inputs[0], call.outputs[0]))
    if outside is None or (inside is None and call.behaviour.role is not Role.LOOK_UP):
        return None
    if all(_is_whole(tensor, channels, removed) for tensor in (call.inputs[0], call.outputs[0])):
        return None
    return Cut(np.empty(0, np.int64) if inside is None else inside, outside)


def _kept(tensor: int, channels: Channels, removed: Collection[int]) -> Ints | None:
    return channels.kept(tensor, removed) if tensor in channels.strands else None


def _is_whole(tensor: int, channels: Channels, removed: Collection[int]) -> bool:
    kept = _kept(tensor, channels, removed)
    return kept is None or len(kept) == len(channels.strands[tensor])


def _new_input(graph: ModelGraph, entry: Input) -> Any:
    config = {**entry.layer.get_config(), "name": entry.name}
    return graph.library.layers.InputLayer.from_config(config).output


def _new_layer(call: Call, cut: Cut | None) -> Any:
    """Make a layer of its own settings; one without weights that cannot tell them (a Lambda) is used again."""
    config = call.layer.get_config()
    config.pop("batch_input_shape", None)  # Keras 2 would hold a first layer to its old input
    config["name"] = call.name
    if cut is not None and call.behaviour.setting is not None:
        config.update(_smaller(call, cut, config))
    try:
        return type(call.layer).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        if not getattr(call.layer, "weights", None):
            return call.layer
        raise ValueError(f"its layer {call.layer.name!r} cannot be made anew from its own settings") from error


def _smaller(call: Call, cut: Cut, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change with the number of output channels."""
    setting = str(call.behaviour.setting)
    if setting == "target_shape":
        return {setting: (*flat(tuple(call.layer.output.shape))[1:-1], len(cut.outputs))}
    # An initial value given as a table no longer fits; the weights are copied, so that any will do.
    initial = {key: "zeros" for key in config if key.endswith("_initializer")}
    return {**initial, setting: len(cut.outputs)}


def _copy_weights(call: Call, layer: Any, cut: Cut | None) -> None:
    weights = [np.asarray(values) for values in call.layer.get_weights()] if hasattr(call.layer, "get_weights") else []
    if cut is not None and call.behaviour.cut is not None:
        weights = call.behaviour.cut(call.layer, weights, cut)
    if weights:
        layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):  # preprocessing of Keras 3 derives what it uses from its weights
        layer.finalize_state()


def _named_outputs(graph: ModelGraph, values: Mapping[int, Any]) -> dict[int, Any]:
    """Give outputs that came from a nested model its name again, by a layer that does nothing."""
    last = {tensor: call.name for call in graph.calls for tensor in call.outputs}
    identity = graph.library.layers.Activation
    return {
        tensor: identity("linear", name=name)(values[tensor])
        for tensor, name in graph.output_names.items()
        if tensor in last and last[tensor] != name
    }
