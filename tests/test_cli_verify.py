"""``asana-webhooks verify``: raw bytes, and a secret that is no argument."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asana_webhooks import sign
from asana_webhooks.cli.app import cli

SECRET = "s3cr3t" * 10
BODY = b'{"events":[]}\n\xff'


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return str(file)


def verify(*options: str, body: bytes = BODY, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["verify", *options], input=body, env=environment)


def test_right_signature_is_one_line_and_status_0(secret_file: str) -> None:
    result = verify("--secret-from", secret_file, "--signature", sign(BODY, SECRET).upper())
    assert (result.exit_code, result.output) == (0, "the signature fits\n")


def test_secret_comes_from_the_environment_by_name() -> None:
    options = ("--secret-from", "env:HOOK_SECRET", "--signature", sign(BODY, SECRET))
    assert verify(*options, HOOK_SECRET=SECRET).exit_code == 0


def test_secret_comes_from_input_when_the_body_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BODY)
    options = ("--secret-from", "-", "--body", str(file), "--signature", sign(BODY, SECRET))
    assert verify(*options, body=f"{SECRET}\r\n".encode()).exit_code == 0


@pytest.mark.parametrize(
    ("body", "signature", "said"),
    [
        pytest.param(BODY[:-1], sign(BODY, SECRET), "the signature does not fit", id="altered"),
        pytest.param(BODY, sign(BODY, "other"), "the signature does not fit", id="other secret"),
        pytest.param(BODY, "abc", "is not 64 hex digits", id="no signature"),
    ],
)
def test_wrong_signature_is_one_line_and_status_1(
    secret_file: str, body: bytes, signature: str, said: str
) -> None:
    result = verify("--secret-from", secret_file, "--signature", signature, body=body)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert SECRET not in result.stderr
    assert signature not in result.stderr


@pytest.mark.parametrize("source", ["env:NOT_SET_ANYWHERE", os.devnull])
def test_secret_that_is_missing_is_named_as_such(source: str) -> None:
    result = verify("--secret-from", source, "--signature", sign(BODY, ""))
    assert result.exit_code == 1
    assert "there is no secret" in result.stderr


def test_file_that_is_missing_is_one_line() -> None:
    result = verify("--secret-from", "/nowhere/secret", "--signature", "00")
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_body_and_secret_cannot_both_be_input() -> None:
    result = verify("--secret-from", "-", "--signature", "00")
    assert result.exit_code == 2
    assert "name a file for one of them" in result.stderr


def test_bytes_are_taken_as_they_come_through_a_pipe(secret_file: str) -> None:
    body = bytes(range(256)) + b"\r\n"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "asana_webhooks", "verify", "--secret-from", secret_file),
            *("--signature", sign(body, SECRET)),
        ],
        input=body,
        capture_output=True,
        timeout=40,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
