"""``asana-webhooks prune``: what leads here without a secret goes, and nothing else."""

from __future__ import annotations

import json

import pytest
from support.cli_shell import Shell, refuse_to_delete, shell
from support.doctored import Serve, portal, serve, workspaces_of

from asana_webhooks import Webhook
from asana_webhooks._upkeep import orphans_among
from asana_webhooks.models import Route

__all__ = ["portal", "serve", "shell"]

ROUTE = "r" * 32


def make_orphan(shell: Shell, *options: str) -> str:
    return shell.establish("--store", f"sqlite:///{shell.file}.lost", *options)


def test_prune_deletes_what_leads_here_without_a_secret(shell: Shell) -> None:
    kept = shell.establish()
    elsewhere = make_orphan(shell, "--public-url", f"http://127.0.0.1:{shell.port}/other")
    orphan = make_orphan(shell)
    route = shell.record(orphan).target.rpartition("/")[2]
    result = shell.run("prune", "--yes")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["gid", "resource", "active", "target"],
        [orphan, shell.asana.project, "yes", f"{shell.public_url}/{route[:4]}..."],
    ]
    assert result.stderr == "1 deleted\n"
    assert set(shell.asana.webhooks) == {kept, elsewhere}


def test_dry_run_deletes_nothing(shell: Shell) -> None:
    shell.establish()
    orphan = make_orphan(shell)
    [record] = shell.records("prune", "--dry-run", "--workspace", shell.asana.workspace)
    assert (record["gid"], record["secret_held"]) == (orphan, False)
    assert len(shell.asana.webhooks) == 2
    assert not any(secret in str(record) for secret in shell.secrets())


def test_prune_asks_first(shell: Shell) -> None:
    shell.establish()
    orphan = make_orphan(shell)
    refused = shell.run("prune", answer="n\n")
    assert refused.exit_code == 1
    assert "Delete 1 of them at Asana for good?" in refused.stderr
    assert orphan in shell.asana.webhooks
    assert "nobody is there to answer" in shell.run("prune").stderr
    assert orphan in shell.asana.webhooks
    assert shell.run("prune", answer="y\n").exit_code == 0
    assert orphan not in shell.asana.webhooks


def test_without_any_it_says_so_and_asks_nothing(shell: Shell) -> None:
    shell.establish()
    result = shell.run("prune")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no webhook leads here without a secret in the store\n"


def test_webhook_that_is_being_established_is_none(shell: Shell) -> None:
    shell.establish()
    orphan = make_orphan(shell)
    target = shell.record(orphan).target
    route = Route(id=target.rpartition("/")[2], target=target, resource=shell.asana.project)
    shell.store(lambda store: store.reserve(route, ttl=60))
    assert shell.records("prune", "--dry-run") == []


def test_store_that_does_not_exist_is_no_reason_to_delete_everything(shell: Shell) -> None:
    make_orphan(shell)
    line = shell.failure("prune", "--yes")
    assert "there is no store at" in line
    assert not shell.file.exists()
    assert len(shell.asana.webhooks) == 1


def test_empty_store_is_a_reason_to_ask_in_any_case(shell: Shell) -> None:
    orphan = make_orphan(shell)
    shell.store(lambda store: store.counts())
    result = shell.run("prune", "--yes")
    assert result.exit_code == 1
    assert "this store holds no webhook at all" in result.stderr
    assert orphan in shell.asana.webhooks
    assert shell.run("prune", answer="y\n").exit_code == 0
    assert orphan not in shell.asana.webhooks


def test_address_that_is_none_is_refused(shell: Shell) -> None:
    assert "absolute https URL" in shell.failure("prune", "--public-url", "hooks.example.com")
    assert "--public-url" in shell.failure("prune", ASANA_WEBHOOKS_PUBLIC_URL=None, status=2)


@pytest.mark.parametrize(
    ("target", "is_ours"),
    [
        pytest.param(f"https://h.example/asana/{ROUTE}", True, id="ours"),
        pytest.param(f"https://h.example/asana/{ROUTE}/", True, id="ours with a slash"),
        pytest.param(f"https://h.example/asana/more/{ROUTE}", False, id="deeper"),
        pytest.param(f"https://h.example/{ROUTE}", False, id="above"),
        pytest.param(f"https://other.example/asana/{ROUTE}", False, id="other host"),
        pytest.param(f"http://h.example/asana/{ROUTE}", False, id="other scheme"),
        pytest.param(f"https://h.example/asana/{ROUTE}?a=b", False, id="query"),
        pytest.param("https://h.example/asana/projects", False, id="no route"),
        pytest.param("https://h.example/asana/healthz", False, id="probe"),
        pytest.param(None, False, id="unknown"),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_target_is_ours_when_it_is_the_address_and_a_route(
    target: str | None, slash: str, *, is_ours: bool
) -> None:
    webhook, place = Webhook(gid="1", target=target), f"https://h.example/asana{slash}"
    assert orphans_among([webhook], [], place) == ([webhook] if is_ours else [])
    known = Route(id=ROUTE, target=f"https://h.example/asana/{ROUTE}", resource="12")
    assert orphans_among([webhook], [known], place) == []


def test_workspace_that_asana_refuses_to_list_is_named_and_left_out(
    shell: Shell, serve: Serve
) -> None:
    shell.establish()
    ours = {"gid": "11", "target": f"{shell.public_url}/{'r' * 32}"}
    host = serve(workspaces_of({"1": 402, "2": [ours]}))
    told = {"ASANA_BASE_URL": f"http://{host}/api/1.0"}
    result = shell.run("prune", "--dry-run", "--json", **told)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["gid"] == "11"
    assert "workspace 1 is left out: Asana answered 402" in result.stderr


def test_webhook_that_asana_does_not_delete_costs_no_other(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gids = [shell.establish("--store", f"sqlite:///{shell.file}.lost") for _ in range(3)]
    shell.establish()
    refuse_to_delete(monkeypatch, gids[1])
    result = shell.run("prune", "--yes")
    assert result.exit_code == 1
    assert [*shell.asana.webhooks].count(gids[1]) == 1
    assert len(shell.asana.webhooks) == 2
    assert "2 deleted\n" in result.stderr
    assert f"Error: webhook {gids[1]} is not deleted: Asana answered 403" in result.stderr
