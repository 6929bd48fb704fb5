"""The one error tree, split by whose fault it is.

HotspareError
├── InputError              the user's input: mend it, then run again
│   ├── UsageError            2   a wrong command line
│   ├── RecipeError          10   a recipe or another project file
│   ├── DataError            11   arrays: missing, NaN, wrong shape
│   ├── ModelError           12   a model file: unreadable or unsupported
│   ├── KeyFileError         13   a key: missing, unreadable, of the wrong kind, too open
│   ├── TrustPolicyError     14   a trust policy file
│   └── MissingStageError    15   what an earlier stage writes is not there
├── Refusal                 a decision against the candidate, with its reasons
│   ├── SelectionRefused     20   no candidate meets the recipe
│   ├── PromotionRefused     21   a gate of the promotion policy failed
│   ├── SchemeRefused        22   a scheme missed most of the weights, or does not exist for a format
│   ├── VariantRefused       23   an export differs too much from its source, or training collapsed
│   ├── DrillFailed          24   a drill missed an objective
│   ├── ReleaseRefused       25   what would be released is not what was measured, or does not come out the same twice
│   ├── ReplayFailed         26   a stage failed while a backup was rebuilt
│   └── LagExceeded          27   channel or nodes did not follow an alias in time
├── Untrusted               a bundle or channel this node must not load
│   ├── Tampered             30   bytes differ, are missing, or are more than was signed
│   ├── SignatureInvalid     31   no pinned key signed this
│   ├── Malformed            32   signed or not, it breaks the format
│   ├── NotAccepted          33   genuine, but not for this node: model, role, engine, target
│   ├── RolledBack           34   older than the floor, or another channel of the same seq
│   ├── Expired              35   past not_after
│   ├── Revoked              36   the channel revokes this bundle or key
│   └── GoldenMismatch       37   the loaded model answers differently from when it was packed
├── SurroundingsError       the machine or the network: trying again may help
│   ├── Unreachable          40   a registry, server or download did not answer
│   ├── OutOfSpace           41   the disk is full
│   ├── MissingExtra         42   a package of an extra is not installed (a retry does not help)
│   ├── FileAccess           43   a file cannot be read or written
│   └── Unfit                44   what ``hotspare doctor`` found keeps hotspare from working here
└── InternalError           70   a bug of ours
"""

from collections.abc import Sequence

from pipeline.core.printable import printable_lines


class HotspareError(Exception):
    """Base of every error a person may see.

    ``str(error)`` is one plain sentence (or a list of them, one a line) that says what, where and what to do.
    It may quote files from anybody; what could steer a terminal is spelled out.
    """

    exit_code = 70
    retry = False

    def __str__(self) -> str:
        return printable_lines(super().__str__())


class InputError(HotspareError):
    """The user's input is at fault."""

    exit_code = 2


class UsageError(InputError):
    """The command line is wrong."""


class RecipeError(InputError):
    """A recipe, parameter or promotion file is wrong."""

    exit_code = 10


class DataError(InputError):
    """Arrays are missing, malformed or hold values that no model can take."""

    exit_code = 11


class ModelError(InputError):
    """A model file cannot be read, or holds what is not supported."""

    exit_code = 12


class KeyFileError(InputError):
    """A key is missing, unreadable, of the wrong kind, or readable by others."""

    exit_code = 13


class TrustPolicyError(InputError):
    """A trust policy file is wrong."""

    exit_code = 14


class MissingStageError(InputError):
    """What an earlier stage writes is not there."""

    exit_code = 15


class Refusal(HotspareError):
    """A decision went against the candidate; ``reasons`` lists every reason."""

    exit_code = 20

    def __init__(self, summary: str, reasons: Sequence[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n  - ".join([summary, *self.reasons]))


class SelectionRefused(Refusal):
    """No pair of candidates meets the recipe."""

    exit_code = 20


class PromotionRefused(Refusal):
    """At least one gate of the promotion policy failed."""

    exit_code = 21


class SchemeRefused(Refusal):
    """A scheme missed most of the weights, or does not exist for the format."""

    exit_code = 22


class VariantRefused(Refusal):
    """An export differs too much from its source model, or training collapsed."""

    exit_code = 23


class DrillFailed(Refusal):
    """At least one drill missed an objective; its report, measures and attestation are written all the same."""

    exit_code = 24


class ReleaseRefused(Refusal):
    """What would be released is not what was measured and committed, or does not come out the same twice."""

    exit_code = 25


class ReplayFailed(Refusal):
    """A stage failed while a recipe was replayed for a new primary; the pair in force stays."""

    exit_code = 26


class LagExceeded(Refusal):
    """A channel or a node did not follow a moved alias within the time that the promotion policy allows."""

    exit_code = 27


class Untrusted(HotspareError):
    """A bundle or channel that must not be loaded here."""

    exit_code = 30


class Tampered(Untrusted):
    """Bytes differ from what was signed, are missing, or are more than was signed."""

    exit_code = 30


class SignatureInvalid(Untrusted):
    """No key that the trust policy pins for this use made the signature."""

    exit_code = 31


class Malformed(Untrusted):
    """The bytes break the bundle, channel or signature format."""

    exit_code = 32


class NotAccepted(Untrusted):
    """Genuine, but not for this node: model, role, engine or target."""

    exit_code = 33


class RolledBack(Untrusted):
    """Older than the floor, or another channel with the floor's sequence number."""

    exit_code = 34


class Expired(Untrusted):
    """Past the channel's ``not_after``."""

    exit_code = 35


class Revoked(Untrusted):
    """The channel revokes the bundle or the key that signed it."""

    exit_code = 36


class GoldenMismatch(Untrusted):
    """The loaded model answers differently from when it was packed."""

    exit_code = 37


class SurroundingsError(HotspareError):
    """The machine or the network failed; trying again may help."""

    exit_code = 40
    retry = True


class Unreachable(SurroundingsError):
    """A registry, server or download did not answer."""

    exit_code = 40


class OutOfSpace(SurroundingsError):
    """The disk is full."""

    exit_code = 41


class MissingExtra(SurroundingsError):
    """A package of an optional extra is not installed."""

    exit_code = 42
    retry = False


class FileAccess(SurroundingsError):
    """A file cannot be read or written."""

    exit_code = 43
    retry = False


class Unfit(SurroundingsError):
    """Something of the installation, machine or project keeps hotspare from working here."""

    exit_code = 44
    retry = False


class InternalError(HotspareError):
    """A bug of ours."""

    exit_code = 70
