from pipeline.core.environment import SIGNING_KEY, for_children


def test_children_get_all_but_the_signing_key_and_no_modules_of_the_current_folder() -> None:
    ours = {"HOME": "/home/a", SIGNING_KEY: "secret", "PYTHONSAFEPATH": ""}
    assert for_children(ours) == {"HOME": "/home/a", "PYTHONSAFEPATH": "1"}
    assert SIGNING_KEY == "HOTSPARE_SIGNING_KEY"
