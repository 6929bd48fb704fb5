"""Where a project keeps what the stages write: every folder has exactly one writer."""

from pathlib import Path

ARTIFACTS = Path("artifacts")
TRUST_POLICY = ARTIFACTS / "trust.yaml"
KEYS = ARTIFACTS / "keys"


def trained_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``train`` (examples): the Keras model and its four splits."""
    return root / "trained" / model


def variant_dir(model: str, variant: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``prune``: ``model.tflite``, perhaps ``model.onnx``, and ``variant.json``."""
    return root / "variants" / model / variant


def tuning_dir(model: str, variant: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``prune`` while it fine-tunes: checkpoints of what was not finished; removed when it is."""
    return root / "work" / "tuning" / f"{model}-{variant}"


def candidates_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``quantize``: one file a candidate, and ``candidates.json``."""
    return root / "candidates" / model


def scorecards_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``score``: one JSON a candidate, ``scorecards.csv`` for plots and ``metrics.json``."""
    return root / "scorecards" / model


def selection_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``select``: ``selection.json``."""
    return root / "selections" / model


def bundle_dir(model: str, role: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``pack``: ``bundle.sig`` and ``payload/``."""
    return root / "bundles" / f"{model}-{role}"


def drill_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``drill``: ``index.html``, ``drill.json``, ``junit.xml``, ``metrics.json`` and the attestation."""
    return root / "drills" / model


def tried_drill_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``drill`` for other scripts than the recipe's, and by simulated drills: no stage's output."""
    return root / "tried_drills" / model


def campaign_dir(campaign: str, model: str, is_live: bool = True, root: Path = ARTIFACTS) -> Path:
    """Written by ``drill --campaign``: ``runs.jsonl``, ``campaign.json``, ``previous.json``, ``index.html``."""
    return root / "campaigns" / (campaign if is_live else f"{campaign}.simulated") / model


def report_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by ``report``: ``index.html``."""
    return root / "reports" / model


def channel_dir(model: str, root: Path = ARTIFACTS) -> Path:
    """Written by promotion: ``channel.json`` and ``channel.sig``; state, not a stage's output."""
    return root / "channels" / model
