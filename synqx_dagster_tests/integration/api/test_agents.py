"""The agent hub over HTTP, on each backend of the catalog: the catalogue, views, figures and search."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from synqx_dagster.catalog.search import MAX_QUERY_CHARACTERS
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import Api

WRITERS = 50

AGENT: dict[str, Any] = {
    "name": "Churn guard",
    "short_description": "Finds customers who are about to leave",
    "business_domain": "Customer care",
    "status": "active",
    "problem_statement": "Customers leave and nobody notices",
    "goals": ["keep customers", "warn early"],
    "in_scope": ["consumers"],
    "out_of_scope": ["companies"],
    "operational_details": "Runs every night",
    "inputs": ["orders", "calls"],
    "outputs": ["a list of names"],
    "tools": [{"name": "Jira", "description": "Opens a ticket"}],
    "security_controls": ["no names leave the warehouse"],
    "kpis": [{"name": "kept", "target": "95 %", "current": 91.5}],
    "personas": ["care agent"],
    "owner": "Ada Lovelace",
    "version": "2.1",
}


@pytest.fixture
def editor(api: Api) -> httpx.Client:
    return api.client(Role.EDITOR)


@pytest.fixture
def viewer(api: Api) -> httpx.Client:
    return api.client(Role.VIEWER)


def make(client: httpx.Client, **values: Any) -> Any:
    answer = client.post("/agents", json=AGENT | values)
    assert answer.status_code == 201, answer.text
    return answer.json()


def listed(client: httpx.Client, **query: Any) -> list[str]:
    answer = client.get("/agents", params=query)
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


def test_an_agent_is_created_read_changed_and_removed(editor: httpx.Client, viewer: httpx.Client) -> None:
    answer = editor.post("/agents", json=AGENT)
    made = answer.json()
    assert answer.status_code == 201, answer.text
    UUID(made["id"])
    assert answer.headers["location"] == f"/api/v1/agents/{made['id']}"
    assert {name: made[name] for name in AGENT if name != "kpis"} == {
        name: value for name, value in AGENT.items() if name != "kpis"
    }
    assert made["kpis"] == [{"name": "kept", "target": "95 %", "current": 91.5, "metric": None, "window_days": 30}]
    assert (made["view_count"], made["created_by"], made["updated_by"]) == (0, "editor", "editor")
    for ref in (made["id"], "Churn guard"):
        read = viewer.get(f"/agents/{ref}")
        assert (read.status_code, read.json()) == (200, made)

    # What was answered can be sent back, changed.
    changed = editor.put(
        f"/agents/{made['id']}",
        json=made | {"status": "retired"},
        headers={"If-Match": answer.headers["etag"]},
    )
    assert changed.status_code == 200, changed.text
    assert (changed.json()["status"], changed.json()["id"]) == ("retired", made["id"])
    stale = editor.put(f"/agents/{made['id']}", json=made, headers={"If-Match": answer.headers["etag"]})
    assert stale.status_code == 412

    assert editor.delete(f"/agents/{made['id']}").status_code == 204
    assert viewer.get(f"/agents/{made['id']}").status_code == 404
    assert editor.put(f"/agents/{made['id']}", json=made).status_code == 404
    assert make(editor)["id"] == made["id"]


def test_what_is_no_agent_is_refused_with_its_places(editor: httpx.Client, viewer: httpx.Client) -> None:
    answer = editor.post("/agents", json=AGENT | {"goal": "x", "kpis": [{"name": "k", "metric": "speed"}]})
    assert answer.status_code == 422
    assert {item["path"] for item in answer.json()["errors"]} == {"goal", "kpis[0].metric"}
    missing = editor.post("/agents", json=AGENT | {"mappings": ["nothing"]})
    assert (missing.status_code, missing.json()["errors"][0]["path"]) == (422, "mappings[0]")
    assert viewer.post("/agents", json=AGENT).status_code == 403
    assert listed(viewer) == []
    make(editor)
    assert editor.post("/agents", json=AGENT).status_code == 409


def test_agents_are_listed_filtered_and_searched(editor: httpx.Client, viewer: httpx.Client) -> None:
    make(editor)
    make(editor, name="Price watch", business_domain="Sales", status="draft", short_description="Compares prices")
    make(editor, name="Stock keeper", business_domain="Sales", status="active", short_description="Counts shelves")
    assert listed(viewer) == ["Churn guard", "Price watch", "Stock keeper"]
    assert listed(viewer, sort="created_at", order="desc") == ["Stock keeper", "Price watch", "Churn guard"]
    assert listed(viewer, domain="Sales") == ["Price watch", "Stock keeper"]
    assert listed(viewer, domain="Sales", status="active") == ["Stock keeper"]
    assert listed(viewer, search="prices") == ["Price watch"]
    assert listed(viewer, search="customers notice", domain="Sales") == ["Price watch", "Stock keeper"]
    assert listed(viewer, search="customers shelves") == ["Stock keeper"]
    assert listed(viewer, search="cuonts") == ["Stock keeper"]
    assert listed(viewer, search="nothing like it") == []
    assert listed(viewer, search="  ") == ["Churn guard", "Price watch", "Stock keeper"]
    page = viewer.get("/agents", params={"skip": 1, "limit": 1}).json()
    assert ([item["name"] for item in page["items"]], page["total"]) == (["Price watch"], 3)
    page = viewer.get("/agents", params={"skip": 1, "limit": 1, "search": "customers"}).json()
    assert (len(page["items"]), page["total"]) == (1, 3)


def test_an_agent_that_is_named_like_a_number_is_found(editor: httpx.Client) -> None:
    make(editor)
    number = make(editor, name="1")
    assert editor.get("/agents/1").json()["id"] == number["id"]


def test_fifty_clients_lose_no_view(api: Api, editor: httpx.Client, viewer: httpx.Client) -> None:
    made = make(editor)
    start = threading.Barrier(WRITERS)
    token = viewer.headers["Authorization"]
    answers: list[httpx.Response] = []

    def look(number: int) -> None:
        with httpx.Client(base_url=f"{api.url}/api/v1", headers={"Authorization": token}, timeout=120) as client:
            start.wait(timeout=60)
            answers.append(client.post(f"/agents/{made['id']}/view", json={"session_id": f"tab-{number % 5}"}))

    threads = [threading.Thread(target=look, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=180)
    assert [answer.status_code for answer in answers] == [200] * WRITERS
    assert sorted(answer.json()["view_count"] for answer in answers) == list(range(1, WRITERS + 1))
    assert viewer.get(f"/agents/{made['id']}").json()["view_count"] == WRITERS
    # A view is no change of the record.
    assert viewer.get(f"/agents/{made['id']}").json()["etag"] == made["etag"]


def test_a_view_needs_an_agent_and_a_session_that_is_one(editor: httpx.Client, viewer: httpx.Client) -> None:
    made = make(editor)
    assert viewer.post("/agents/Churn guard/view").json() == {"id": made["id"], "view_count": 1}
    for unknown in (str(uuid4()), "nobody"):
        assert viewer.post(f"/agents/{unknown}/view").status_code == 404
    for body in ({"session_id": "a b"}, {"session_id": "x" * 129}, {"session_id": 1}, {"user_id": str(uuid4())}):
        assert viewer.post(f"/agents/{made['id']}/view", json=body).status_code == 422
    assert viewer.get(f"/agents/{made['id']}").json()["view_count"] == 1


def test_figures_of_the_hub(api: Api, editor: httpx.Client, viewer: httpx.Client) -> None:
    empty = viewer.get("/analytics/stats").json()
    assert (empty["agents"], empty["total_views"], empty["by_status"]) == (0, 0, {})
    assert viewer.get("/analytics/trending").json() == []
    assert viewer.get("/analytics/by-domain").json() == {"items": [], "total": 0, "skip": 0, "limit": 50}
    make(editor)
    make(editor, name="Price watch", business_domain="Sales", status="draft")
    make(editor, name="Stock keeper", business_domain="Sales")
    make(editor, name="Loner", business_domain=None)
    for client, name in ((viewer, "Price watch"), (viewer, "Price watch"), (viewer, "Loner"), (editor, "Loner")):
        assert client.post(f"/agents/{name}/view").status_code == 200

    stats = viewer.get("/analytics/stats").json()
    assert (stats["agents"], stats["domains"], stats["total_views"], stats["recent_views"]) == (4, 2, 4, 4)
    assert (stats["by_status"], stats["kpis"], stats["measured_kpis"]) == ({"active": 3, "draft": 1}, 4, 0)
    trending = viewer.get("/analytics/trending").json()
    # As many views, and more people.
    assert [(item["name"], item["views"], item["viewers"]) for item in trending] == [
        ("Loner", 2, 2),
        ("Price watch", 2, 1),
    ]
    assert len(viewer.get("/analytics/trending", params={"limit": 1}).json()) == 1
    domains = viewer.get("/analytics/by-domain").json()["items"]
    assert [(item["domain"], item["agents"], item["view_count"]) for item in domains] == [
        ("Sales", 2, 2),
        ("Customer care", 1, 0),
        (None, 1, 2),
    ]
    page = viewer.get("/analytics/by-domain", params={"skip": 1, "limit": 1}).json()
    assert page == {"items": domains[1:2], "total": 3, "skip": 1, "limit": 1}

    assert editor.delete("/agents/Loner").status_code == 204
    assert viewer.get("/analytics/stats").json()["total_views"] == 2
    assert [item["name"] for item in viewer.get("/analytics/trending").json()] == ["Price watch"]


def test_an_agent_of_a_team_is_written_by_the_team(api: Api, editor: httpx.Client) -> None:
    admin = api.client(Role.ADMIN)
    made = make(admin, owner="team:crm")
    assert editor.put("/agents/Churn guard", json=AGENT).status_code == 403
    assert editor.delete(f"/agents/{made['id']}").status_code == 403
    assert admin.put("/agents/Churn guard", json=AGENT).status_code == 200
    assert editor.put("/agents/Churn guard", json=AGENT | {"version": "3"}).status_code == 200
    assert editor.put("/agents/Churn guard", json=AGENT | {"owner": "team:crm"}).status_code == 403


# --- search -------------------------------------------------------------------------------------------------------


def test_everything_is_searched_and_marked(editor: httpx.Client, viewer: httpx.Client) -> None:
    made = make(editor, short_description="Finds <b>customers</b> & others")
    connection = editor.post(
        "/connections",
        json={
            "name": "customer_db",
            "db_type": "postgresql",
            "host": "h",
            "database": "d",
            "username": "u",
            "password": "canary7f3secret",
        },
    )
    assert connection.status_code == 201, connection.text
    answer = viewer.get("/search", params={"q": "custom"})
    found = answer.json()
    assert [(item["kind"], item["id"]) for item in found["items"]] == [
        ("connection", str(connection.json()["id"])),
        ("agent", made["id"]),
    ]
    assert (found["total"], found["counts"]) == (2, {"agent": 1, "connection": 1})
    snippet = next(item for item in found["items"] if item["kind"] == "agent")["snippet"]
    assert {"text": "customers", "match": True} in snippet
    assert "<b>" in "".join(part["text"] for part in snippet)
    assert answer.headers["content-type"] == "application/json"
    assert viewer.get("/search", params={"q": "custom", "kind": "connection"}).json()["total"] == 1
    assert viewer.get("/search", params={"q": "canary7f3secret"}).json()["total"] == 0
    assert viewer.get("/search", params={"q": "cusotmers"}).json()["corrections"]["cusotmers"][0] == "customers"


@pytest.mark.parametrize("query", [{}, {"q": ""}, {"q": "x" * (MAX_QUERY_CHARACTERS + 1)}, {"q": "a", "kind": "user"}])
def test_a_search_for_nothing_is_a_problem(viewer: httpx.Client, query: dict[str, str]) -> None:
    answer = viewer.get("/search", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_hostile_queries_are_answered(viewer: httpx.Client, editor: httpx.Client) -> None:
    make(editor)
    for text in ("'", '"', "*", "(a", "NEAR(a b)", "a:*", "\\", "%", "🙂", "'; drop table synqx_record; --", "\u202e"):
        assert viewer.get("/search", params={"q": text}).status_code == 200, text
        assert viewer.get("/agents", params={"search": text}).status_code == 200, text
    for raw in ("%00", "%ed%a0%80", "%ff"):
        assert viewer.get(f"/search?q=a{raw}").status_code in (200, 400, 422), raw
