"""Number formats of ``.tflite`` files, by ai-edge-quantizer; inputs and outputs stay float32 and int32."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.model_modifier import ModelModifier
from ai_edge_quantizer.params_generator import ParamsGenerator
from ai_edge_quantizer.recipe_manager import RecipeManager

from pipeline.compress.schemes.calibration import Ranges
from pipeline.compress.schemes.embedding import look_up_embeddings
from pipeline.compress.schemes.groups import Assignment, WeightGroup
from pipeline.compress.schemes.slimming import slimmed, written_slim
from pipeline.compress.schemes.tflite_file import (
    TfliteModel,
    constant_of,
    operators,
    parse_once,
    parse_own,
    parse_tflite,
    text_of,
    write_tflite,
)
from pipeline.compress.schemes.tflite_following import followed
from pipeline.compress.schemes.tflite_groups import OperatorGroup, operator_groups, scope_of
from pipeline.compress.schemes.tflite_rules import Rule, Target, recipe, rule_of
from pipeline.core.errors import ModelError, SchemeRefused
from pipeline.core.names import Scheme
from pipeline.core.tensors import Array

# The version that says "one scale a channel"; tflite-runtime 2.14 stops at 10. Without it, it would load the file and
# take each scale for zero: wrong answers where a refusal belongs.
_DENSE_PER_CHANNEL_VERSION = 12
Place = tuple[int, int]  # of an operator: its graph, and its position there


def quantizable(parent: bytes) -> bytes:
    """Return a float model with its embedding tables where the quantizer finds them; answers stay bit-identical.

    Operator codes are upgraded to the field that newer readers use, and tensors get names of their own.
    Raises ModelError for bytes that are not a ``.tflite`` model.
    """
    model = parse_tflite(parent)
    look_up_embeddings(model)
    _tell_tensors_apart(model)
    return write_tflite(model)


def tflite_groups(prepared: bytes) -> tuple[WeightGroup, ...]:
    """List what can be decided in a prepared model; a choice that stores the same as an earlier one is left out."""
    model = parse_once(prepared)
    return tuple(_weight_group(model, group) for group in operator_groups(model))


def quantize_tflite(prepared: bytes, scheme: Scheme | Assignment, ranges: Ranges | None = None) -> bytes:
    """Store a model that :func:`quantizable` prepared in another number format; static schemes need ``ranges``.

    What an assignment makes is slimmed. Equal inputs give equal bytes. Raises SchemeRefused when the quantizer cannot
    apply the scheme.
    """
    if not isinstance(scheme, Scheme) and all(item is Scheme.F32 for item in scheme.values()):
        return slimmed(prepared)
    model = parse_once(prepared)
    rules = _rules(model, scheme)
    if not rules:
        raise SchemeRefused(
            f"{_title(scheme)} changes nothing in this model: the quantizer has no kernel for its layers."
        )
    try:
        model = _quantized(model, rules, ranges)
    except (ValueError, RuntimeError, KeyError, NotImplementedError, IndexError, ModelError) as error:
        brief = " ".join(str(error).split())
        raise SchemeRefused(f"{_title(scheme)} cannot be applied to this model: {brief[:200]}.") from error
    _state_versions(model)
    return write_tflite(model) if isinstance(scheme, Scheme) else written_slim(model)


def raw_recipe(model: TfliteModel, scheme: Scheme | Assignment) -> Any:
    """Return what the quantizer is asked for, in its own words."""
    return recipe((_target(model, place), rule) for place, rule in _rules(model, scheme).items())


def _rules(model: TfliteModel, scheme: Scheme | Assignment) -> dict[Place, Rule]:
    return _uniform(model, scheme) if isinstance(scheme, Scheme) else _mixed(model, scheme)


def _title(scheme: Scheme | Assignment) -> str:
    return str(scheme) if isinstance(scheme, Scheme) else "this mix of schemes"


def _weight_group(model: TfliteModel, group: OperatorGroup) -> WeightGroup:
    size = sum(len(model.buffers[buffer].data) for buffer in group.buffers)
    choices: dict[tuple[Rule | None, ...], Scheme] = {(): Scheme.F32}
    for scheme in Scheme:
        rules = tuple(_rule(model, (item.graph, item.position), scheme) for item in group.operators)
        if any(rule is not None for rule in rules):
            choices.setdefault(rules, scheme)
    return WeightGroup(group.name, group.kind, size // 4, size, tuple(choices.values()))


def _uniform(model: TfliteModel, scheme: Scheme) -> dict[Place, Rule]:
    found = {place: _rule(model, place, scheme) for place in _places(model)}
    return {place: rule for place, rule in found.items() if rule is not None}


def _mixed(model: TfliteModel, assignment: Assignment) -> dict[Place, Rule]:
    groups = {group.name: group for group in operator_groups(model)}
    unknown = sorted(assignment.keys() - groups.keys())
    if unknown:
        raise SchemeRefused(f"There is no weight group {unknown[0]!r} in this model; make the assignment again.")
    decided = {
        (operator.graph, operator.position): _rule(model, (operator.graph, operator.position), scheme)
        for name, scheme in assignment.items()
        for operator in groups[name].operators
    }
    schemes = {
        (operator.graph, operator.position): assignment.get(name, Scheme.F32)
        for name, group in groups.items()
        for operator in group.operators
    }
    own = {place: rule for place, rule in decided.items() if rule is not None}
    static = {place: schemes[place] for place, rule in own.items() if rule.is_static}
    after = {place: _rule(model, place, scheme) for place, scheme in followed(model, static, schemes.keys()).items()}
    return {**own, **{place: rule for place, rule in after.items() if rule is not None and rule.is_static}}


def _places(model: TfliteModel) -> Iterator[Place]:
    for graph_index, graph in enumerate(model.subgraphs):
        yield from ((graph_index, position) for position in range(len(graph.operators)))


def _rule(model: TfliteModel, place: Place, scheme: Scheme) -> Rule | None:
    # Activations of inner graphs (loop bodies) are not calibrated: only their last turn could be read.
    return rule_of(_target(model, place), scheme, is_calibrated=place[0] == 0)


def _target(model: TfliteModel, place: Place) -> Target:
    graph = model.subgraphs[place[0]]
    operator = graph.operators[place[1]]
    code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
    return Target(code, scope_of(graph, operator), _weights(model, graph, operator))


def _weights(model: TfliteModel, graph: Any, operator: Any) -> Array | None:
    index = operator.inputs[1] if len(operator.inputs) > 1 else -1
    tensor = graph.tensors[index]
    data = None if index == -1 or tensor.type != schema.TensorType.FLOAT32 else constant_of(model, tensor)
    return None if data is None or not len(tensor.shape) else data.view("<f4").reshape(tensor.shape)


class _ObjectKeeper(ModelModifier):  # type: ignore[misc]  # it ships no types
    """The quantizer's last part without its writing: what it made is changed further, and written once, at the end."""

    made: TfliteModel | None = None

    def _serialize_small_model(self, quantized_model: TfliteModel) -> bytearray:
        self.made = quantized_model
        return bytearray()

    def _serialize_model(self, quantized_model: TfliteModel, *_: Any, **__: Any) -> bytearray:
        self.made = quantized_model
        return bytearray()


def _quantized(model: TfliteModel, rules: Mapping[Place, Rule], ranges: Ranges | None) -> TfliteModel:
    """Run the quantizer's parts one by one: as a whole it parses the model again and draws progress bars."""
    manager = RecipeManager()
    manager.load_quantization_recipe(recipe((_target(model, place), rule) for place, rule in rules.items()))
    statistics = _statistics(ranges if any(rule.is_static for rule in rules.values()) else None)
    parameters = ParamsGenerator(model).generate_quantization_parameters(manager, statistics, False)
    modifier = _ObjectKeeper(model)
    written = modifier.modify_model(parameters, None, False)
    return parse_own(bytes(written)) if modifier.made is None else modifier.made


def _statistics(ranges: Ranges | None) -> Any:
    if ranges is None:
        return None
    return {name: {"min": np.array([found.low]), "max": np.array([found.high])} for name, found in ranges.items()}


def _tell_tensors_apart(model: TfliteModel) -> None:
    """Give tensors that share a name another one each, where nothing outside can know it; the quantizer wants that."""
    seen: set[str] = set()
    for graph in model.subgraphs:
        outside = {*graph.inputs, *graph.outputs}
        for index, tensor in sorted(enumerate(graph.tensors), key=lambda item: item[0] not in outside):
            name = text_of(tensor.name or b"")
            number = 1
            while not name or name in seen:
                number += 1
                name = f"{text_of(tensor.name or b'tensor')}#{number}"
            seen.add(name)
            tensor.name = name.encode() if index not in outside or not tensor.name else tensor.name


def _state_versions(model: TfliteModel) -> None:
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    if any(_is_hybrid_per_channel(graph, operator) for graph, operator in operators(model, dense)):
        for code in model.operatorCodes:
            if code.builtinCode == dense:
                code.version = max(code.version, _DENSE_PER_CHANNEL_VERSION)


def _is_hybrid_per_channel(graph: Any, operator: Any) -> bool:
    weights, result = graph.tensors[operator.inputs[1]], graph.tensors[operator.outputs[0]]
    scales = weights.quantization.scale if weights.quantization is not None else None
    is_integer = weights.type in (schema.TensorType.INT8, schema.TensorType.INT4)
    return is_integer and result.type == schema.TensorType.FLOAT32 and scales is not None and len(scales) > 1
