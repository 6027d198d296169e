"""Log lines: as configured, and never with the variables of a traceback, which may be seeds and keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bigmarket.logs import set_up_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_variables(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(log_format=log_format, log_level="info")
    secret = "a secret of this test".upper()
    for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        try:
            raise RuntimeError(f"it holds {len(secret)} characters")
        except RuntimeError:
            log.exception("broke")
    said = capsys.readouterr().err
    assert said.count("it holds 21 characters") >= 2
    assert "test_a_traceback_shows_no_variables" in said
    assert secret not in said


def test_json_lines_and_levels(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(log_format="json", log_level="warning")
    structlog.get_logger().info("not said")
    structlog.get_logger().warning("said", text="随机积分")
    logging.getLogger("theirs").warning("said by %s", "others")
    logging.getLogger("uvicorn.error").info("not said either")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("said", "warning"), ("said by others", "warning")]
    assert lines[0]["text"] == "随机积分"
