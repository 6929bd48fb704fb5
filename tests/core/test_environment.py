from pipeline.core.environment import SECRETS, SIGNING, SIGNING_KEY, for_children


def test_children_get_all_but_the_signing_key_and_no_modules_of_the_current_folder() -> None:
    ours = {"HOME": "/home/a", SIGNING_KEY: "secret", "PYTHONSAFEPATH": ""}
    assert for_children(ours) == {"HOME": "/home/a", "PYTHONSAFEPATH": "1"}
    assert SIGNING_KEY == "HOTSPARE_SIGNING_KEY"


def test_children_get_no_secret_of_ours_of_the_registry_or_of_a_bucket() -> None:
    ours = dict.fromkeys(SECRETS, "secret")
    assert {
        "HOTSPARE_SIGNING_KEY", "HOTSPARE_SIGNING_PIN", "HOTSPARE_TOKEN", "HOTSPARE_WEBHOOK_SECRET",
        "DOCKER_AUTH_CONFIG", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    } == SECRETS  # fmt: skip
    assert for_children(ours) == {"PYTHONSAFEPATH": "1"}


def test_a_child_that_needs_a_secret_gets_that_one_alone() -> None:
    ours = dict.fromkeys(SECRETS, "secret")
    assert for_children(ours, SIGNING).keys() == {"HOTSPARE_SIGNING_KEY", "HOTSPARE_SIGNING_PIN", "PYTHONSAFEPATH"}
