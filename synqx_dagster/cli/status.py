"""`synqx status`: where everything is, how it does, and what to do next."""

from __future__ import annotations

from typing import Any

import click

from synqx_dagster.cli.figures import format_age, plural
from synqx_dagster.cli.options import SynqxCommand, json_option, pass_output
from synqx_dagster.cli.output import Output, printable
from synqx_dagster.cli.runs import draw_runs, latest_runs
from synqx_dagster.cli.session import open_catalog
from synqx_dagster.cli.vault import describe_vault, try_vault
from synqx_dagster.model import RECORD_KINDS

_RUNS = 5


@click.command(cls=SynqxCommand)
@json_option
@pass_output
def status(output: Output) -> None:
    """Show where everything is and how it does.

    The home, the catalog and its revision, the vault, what is declared, the code servers that run on this machine,
    and the latest runs.
    """
    from synqx_dagster.defs.reload import find_servers

    catalog = open_catalog()
    settings = catalog.settings
    opens, why_not = try_vault(catalog)
    vault_status = catalog.vault.status()
    snapshot = catalog.snapshot()
    counts = {f"{kind}s": len(snapshot.of_kind(kind)) for kind in RECORD_KINDS}
    revisions = catalog.history(1)
    servers = find_servers(settings)
    runs = latest_runs(settings, _RUNS)
    document: dict[str, Any] = {
        "home": settings.home,
        "catalog": settings.display_catalog_url,
        "catalog_id": catalog.catalog_id,
        "revision": snapshot.revision,
        "records": counts,
        "vault": {**vault_status.to_dict(), "unsealed": opens},
        "dagster_home": settings.dagster_home,
        "code_servers": [{"pid": server.pid} for server in servers],
        "runs": runs,
    }

    def draw() -> None:
        changed = ""
        if revisions:
            changed = f", {format_age(revisions[0].created_at)} by {printable(revisions[0].author)}"
        declared = ", ".join(plural(count, kind) for kind, count in zip(RECORD_KINDS, counts.values(), strict=True))
        output.facts(
            [
                ("home", str(settings.home)),
                ("catalog", settings.display_catalog_url),
                ("revision", f"{snapshot.revision}{changed}" if snapshot.revision else "0: nothing is declared yet"),
                ("records", declared),
                ("vault", describe_vault(vault_status, opens=opens, why_not=why_not)),
                ("Dagster", str(settings.dagster_home)),
                ("code server", _describe_servers([server.pid for server in servers])),
            ]
        )
        output.print()
        if not snapshot.revision:
            output.print("Next: write YAML definitions, then run `synqx check` and `synqx apply`.")
        elif not runs:
            output.print("No runs yet: `synqx run NAME` runs a mapping, a pipeline or a schedule.")
        else:
            draw_runs(output, runs)

    output.result(document, draw)


def _describe_servers(pids: list[int]) -> str:
    if not pids:
        return "none runs here: `synqx dev` starts one"
    return ", ".join(f"process {pid}" for pid in pids)
