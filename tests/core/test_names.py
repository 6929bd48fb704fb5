import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import MODEL_NAME, VARIANT, CandidateName, Format, Scheme

VARIANTS = ["dense", "qat", "p24", *(f"p{tens}{ones}" for tens in range(1, 10) for ones in (0, 5))]
NAMES = st.builds(CandidateName, st.sampled_from(VARIANTS), st.sampled_from(Scheme), st.sampled_from(Format))
ALL_NAMES = {str(CandidateName(v, s, f)) for v in VARIANTS for s in Scheme for f in Format}


@given(NAMES)
def test_a_name_is_read_back_as_written(name):
    assert CandidateName.parse(str(name)) == name


def test_different_candidates_have_different_names_and_files():
    names = [CandidateName(v, s, f) for v in VARIANTS for s in Scheme for f in Format]
    assert len({str(name) for name in names}) == len(names)
    assert len({name.file_name for name in names}) == len(names)


@given(
    st.text(max_size=20)
    | st.lists(st.sampled_from([*VARIANTS, *Scheme, *Format, "p33", "", "w4"]), max_size=4).map(".".join)
    | NAMES.flatmap(lambda name: st.sampled_from([f"{name}\n", f" {name}", f"{name}.", f"{name}.tflite", f".{name}"]))
)
def test_every_other_text_is_refused(text):
    if text in ALL_NAMES:
        assert str(CandidateName.parse(text)) == text
    else:
        with pytest.raises(ValueError, match="candidate name"):
            CandidateName.parse(text)


def test_the_written_form_is_the_published_one():
    assert str(CandidateName("p50", Scheme.W8A8)) == "p50.w8a8"
    assert str(CandidateName("dense", Scheme.W8D, Format.ONNX)) == "dense.w8d.onnx"
    assert CandidateName("p50", Scheme.W8A8).file_name == "p50.w8a8.tflite"
    assert CandidateName("dense", Scheme.W8D, Format.ONNX).file_name == "dense.w8d.onnx"


@pytest.mark.parametrize("text", ["P50", "p5", "p00", "p51", "p100", "dense2", "qat ", "p24\n", ""])
def test_variants_outside_the_grammar_are_refused(text):
    assert not re.fullmatch(VARIANT, text)


@pytest.mark.parametrize("text", ["Credit", "1a", "-a", "a.b", "a/b", "../a", "a" * 64, "", "a\n"])
def test_model_names_that_could_be_paths_or_other_names_are_refused(text):
    assert not re.fullmatch(MODEL_NAME, text)
