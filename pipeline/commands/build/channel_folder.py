"""The channel's folder in this project: reading what is there with the pinned keys, exchanging it in one step."""

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, Channel
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.reading import read_small
from pipeline.bundle.verify import read_channel
from pipeline.core import layout
from pipeline.core.errors import Malformed, PromotionRefused, SignatureInvalid
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.registry.history import Held


def current_channel(model: str, trust: TrustPolicy) -> Channel | None:
    """Return the channel in this project's folder, whatever its dates, or None when there is none.

    Raises PromotionRefused when no pinned key signed what is there.
    """
    held = read_folder(model, trust)
    return None if held is None else held.channel


def read_folder(model: str, trust: TrustPolicy) -> Held | None:
    """Return the channel in this project's folder with its signature; raises as :func:`current_channel` does."""
    folder = layout.channel_dir(model)
    if not (folder / CHANNEL_SIGNATURE).exists():
        return None
    signature = read_small(folder / CHANNEL_SIGNATURE)
    try:
        channel, _ = read_channel(signature, trust, str(folder / CHANNEL_SIGNATURE))
    except (SignatureInvalid, Malformed) as error:
        raise PromotionRefused(
            f"{folder} is not a channel that a key of {layout.TRUST_POLICY} signed; "
            "move the folder away to go on from what the registry knows, or pin the key that signed it.",
            [str(error)],
        ) from error
    if channel.model != model:
        raise PromotionRefused(f"{folder} holds the channel of {channel.model}; move the folder away.")
    return Held(channel, signature)


def write_folder(model: str, held: Held) -> None:
    """Exchange the folder for one that holds this channel; that is what commits a promotion."""
    with replacing_dir(layout.channel_dir(model)) as aside:
        write_atomic(aside / CHANNEL_FILE, held.channel.to_bytes())
        write_atomic(aside / CHANNEL_SIGNATURE, held.signature)


def is_whole(held: Held) -> bool:
    """Tell whether ``channel.json`` is there and says what the folder's ``channel.sig``, already read, signs."""
    place = layout.channel_dir(held.channel.model) / CHANNEL_FILE
    return place.exists() and read_small(place) == held.channel.to_bytes()
