"""Accounts, logins, keys and the trail over HTTP, on both backends."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa

from synqx_dagster.api.identify import SESSION_COOKIE
from synqx_dagster.catalog.people_tables import api_key, session
from synqx_dagster.people.roles import Role
from synqx_dagster_tests.fix_people import CLIENT, Api, password_of

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def login(api: Api, username: str, password: str) -> httpx.Response:
    return httpx.post(f"{api.url}/api/v1/auth/login", json={"username": username, "password": password}, timeout=60)


def test_the_life_of_a_login(api: Api) -> None:
    answer = login(api, "viewer", password_of("viewer").get_secret_value())
    tokens = answer.json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 600)
    client = api.client(Authorization=f"Bearer {tokens['access_token']}")
    me = client.get("/auth/me").json()
    assert (me["username"], me["role"], me["method"]) == ("viewer", "viewer", "token")
    assert me["permissions"] == ["catalog:read", "profile", "runs:read"]
    refreshed = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    again = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert again.status_code == 401
    assert again.headers["WWW-Authenticate"] == "Bearer"
    client = api.client(Authorization=f"Bearer {refreshed['access_token']}")
    assert client.post("/auth/logout").status_code == 204
    assert client.get("/auth/me").status_code == 401
    assert client.post("/auth/refresh", json={"refresh_token": refreshed["refresh_token"]}).status_code == 401


def test_a_wrong_password_and_an_unknown_user_are_answered_alike(api: Api) -> None:
    answers = [login(api, name, "not the right one") for name in ("viewer", "nobody", "x" * 254)]
    assert {answer.status_code for answer in answers} == {401}
    bodies = [{**answer.json(), "request_id": None} for answer in answers]
    assert bodies[0] == bodies[1] == bodies[2]
    assert [sorted(set(answer.headers) - {"date"}) for answer in answers[:1]] == [
        sorted(set(answer.headers) - {"date"}) for answer in answers[1:2]
    ]


def test_what_is_no_login_is_refused_without_its_password(api: Api) -> None:
    canary = "kanarienvogel"
    for body in (
        {"username": "ann"},
        {"username": "ann", "password": ""},
        {"username": "ann", "password": canary, "admin": True},
        {"username": ["ann"], "password": canary},
        {"username": "ann", "password": {"text": canary}},
        {"username": "ann", "password": canary * 100},
    ):
        answer = httpx.post(f"{api.url}/api/v1/auth/login", json=body)
        assert answer.status_code == 422
        assert canary not in answer.text
        assert answer.json()["errors"]


def test_registration_is_closed_and_can_be_opened(api: Api) -> None:
    nobody = api.client()
    body = {"username": "ann", "password": "four words and a half", "email": "ann@example.org"}
    assert nobody.post("/auth/register", json=body).status_code == 403
    people = api.context.people
    people._settings = dataclasses.replace(people._settings, registration_open=True)
    assert nobody.post("/auth/register", json={**body, "role": "admin"}).status_code == 422
    made = nobody.post("/auth/register", json=body)
    assert made.status_code == 201
    assert made.json()["role"] == "viewer"
    assert nobody.post("/auth/register", json=body).status_code == 409
    refused = nobody.post("/auth/register", json={**body, "username": "bob", "password": "short"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["path"] == "password"


def test_a_changed_password_ends_the_login(api: Api) -> None:
    client = api.client(Role.VIEWER)
    current = password_of("viewer").get_secret_value()
    new = "another one of these"
    wrong = client.post("/auth/password", json={"current_password": "x", "new_password": new})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "current_password")
    answer = client.post("/auth/password", json={"current_password": current, "new_password": new})
    assert answer.status_code == 204
    assert client.get("/auth/me").status_code == 401
    assert login(api, "viewer", current).status_code == 401
    assert login(api, "viewer", new).status_code == 200


def test_accounts_of_others(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    body = {"username": "ann", "role": "editor", "email": "ann@example.org", "teams": ["ops", "data"]}
    made = admin.post("/users", json=body)
    assert made.status_code == 201
    user = made.json()
    assert (user["teams"], user["has_password"], user["disabled"]) == (["data", "ops"], False, False)
    assert admin.post("/users", json=body).status_code == 409
    assert admin.post("/users", json={**body, "username": "a b"}).json()["errors"][0]["path"] == "username"
    assert admin.get(f"/users/{user['id']}").json() == user
    assert admin.get(f"/users/{UNKNOWN}").status_code == 404
    assert admin.get("/users/5").status_code == 422
    page = admin.get("/users", params={"limit": 2, "skip": 1}).json()
    assert (page["total"], len(page["items"]), page["items"][0]["username"]) == (5, 2, "ann")
    assert admin.get("/users", params={"search": "EXAMPLE.org"}).json()["total"] == 1
    assert admin.get("/users", params={"role": "admin"}).json()["total"] == 1
    assert admin.get("/users", params={"limit": 0}).status_code == 422
    changed = admin.patch(f"/users/{user['id']}", json={"role": "viewer", "teams": []}).json()
    assert (changed["role"], changed["teams"]) == ("viewer", [])
    assert admin.post(f"/users/{user['id']}/password", json={"password": "short"}).status_code == 422
    assert admin.post(f"/users/{user['id']}/password", json={"password": "four words and a half"}).status_code == 204
    ann = login(api, "ANN@example.org", "four words and a half").json()
    client = api.client(Authorization=f"Bearer {ann['access_token']}")
    assert client.get("/auth/me").json()["username"] == "ann"
    for _ in range(2):
        assert admin.delete(f"/users/{user['id']}").status_code == 204
    assert client.get("/auth/me").status_code == 401
    assert admin.get(f"/users/{user['id']}").json()["disabled"] is True


def test_accounts_are_sorted_and_changed_by_who_has_seen_them(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    api.client(Role.VIEWER)

    def names(**query: str) -> list[str]:
        return [item["username"] for item in admin.get("/users", params=query).json()["items"]]

    assert names() == ["admin", "editor", "operator", "viewer"]
    assert names(order="desc") == ["viewer", "operator", "editor", "admin"]
    # Who has never logged in is last either way.
    assert names(sort="last_login_at") == ["admin", "viewer", "editor", "operator"]
    assert names(sort="last_login_at", order="desc") == ["viewer", "admin", "editor", "operator"]
    assert admin.get("/users", params={"sort": "password_hash"}).status_code == 422
    editor = admin.get("/users", params={"search": "editor"}).json()["items"][0]
    path = f"/users/{editor['id']}"
    read = admin.get(path)
    assert read.headers["ETag"] == f'"{editor["etag"]}"'
    seen = {"If-Match": read.headers["ETag"]}
    changed = admin.patch(path, json={"teams": ["data"]}, headers=seen)
    assert (changed.status_code, changed.headers["ETag"] != read.headers["ETag"]) == (200, True)
    late = admin.patch(path, json={"role": "admin"}, headers=seen)
    assert (late.status_code, late.headers["ETag"]) == (412, changed.headers["ETag"])
    assert admin.delete(path, headers=seen).status_code == 412
    assert admin.get(path).json() == changed.json()
    # To log in makes no other version of an account.
    login(api, "editor", password_of("editor").get_secret_value())
    assert admin.delete(path, headers={"If-Match": changed.headers["ETag"]}).status_code == 204


def test_the_trail_is_listed_in_either_order(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    oldest = admin.get("/audit", params={"order": "asc", "limit": 3}).json()["items"]
    assert [entry["number"] for entry in oldest] == [1, 2, 3]
    assert admin.get("/audit", params={"limit": 1}).json()["items"][0]["number"] > 3


def test_the_last_admin_cannot_leave(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    me = admin.get("/auth/me").json()
    for answer in (
        admin.delete(f"/users/{me['id']}"),
        admin.patch(f"/users/{me['id']}", json={"role": "editor"}),
        admin.patch(f"/users/{me['id']}", json={"disabled": True}),
    ):
        assert answer.status_code == 409
        assert "last admin" in answer.json()["detail"]


def test_keys_of_services(api: Api) -> None:
    operator = api.client(Role.OPERATOR)
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = operator.post("/api-keys", json={"name": "ci", "scopes": ["runs:launch"], "expires_at": until})
    assert made.status_code == 201
    key = made.json()
    [listed] = operator.get("/api-keys").json()["items"]
    assert listed == {name: value for name, value in key.items() if name != "key"}
    assert operator.post("/api-keys", json={"name": "ci", "scopes": ["people:manage"]}).status_code == 403
    assert operator.post("/api-keys", json={"name": "ci", "scopes": ["no:scope"]}).status_code == 422
    assert operator.post("/api-keys", json={"name": "ci", "scopes": []}).status_code == 422
    with_profile = operator.post("/api-keys", json={"name": "me", "scopes": ["profile"]}).json()
    client = api.client(**{"X-API-Key": with_profile["key"]})
    me = client.get("/auth/me").json()
    assert (me["method"], me["permissions"]) == ("api_key", ["profile"])
    assert client.post("/api-keys", json={"name": "more", "scopes": ["profile"]}).status_code == 403
    assert client.post("/auth/logout").status_code == 403
    assert api.client(Role.ADMIN).delete(f"/api-keys/{key['id']}").status_code == 404
    assert operator.delete(f"/api-keys/{key['id']}").status_code == 204
    assert operator.delete(f"/api-keys/{key['id']}").status_code == 404
    assert [item["name"] for item in operator.get("/api-keys").json()["items"]] == ["me"]


def pages_of(client: httpx.Client, path: str, **query: str) -> list[str]:
    """The ids of a list, read in pages of two that say how many there are."""
    found: list[str] = []
    total = 1
    while len(found) < total:
        page = client.get(path, params={**query, "skip": len(found), "limit": 2}).json()
        assert (page["skip"], page["limit"], len(page["items"])) == (len(found), 2, min(2, page["total"] - len(found)))
        total = page["total"]
        found += [item["id"] for item in page["items"]]
    assert client.get(path, params={**query, "skip": total}).json()["items"] == []
    return found


@pytest.mark.parametrize("path", ["/api-keys", "/auth/sessions", "/users", "/audit", "/analytics/by-domain"])
def test_a_part_of_a_list_that_cannot_be_is_refused(api: Api, path: str) -> None:
    admin = api.client(Role.ADMIN)
    whole = admin.get(path).json()
    assert (set(whole), whole["skip"], whole["limit"]) == ({"items", "total", "skip", "limit"}, 0, 50)
    for wrong in ({"limit": 0}, {"limit": 501}, {"skip": -1}, {"skip": 10**9 + 1}, {"limit": "all"}):
        answer = admin.get(path, params=wrong)
        assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
        assert answer.json()["errors"][0]["path"] == next(iter(wrong))
    assert admin.get(path, params={"skip": 10**9}).json() == {**whole, "items": [], "skip": 10**9}


def test_keys_are_listed_in_pages_that_do_not_overlap(api: Api) -> None:
    operator = api.client(Role.OPERATOR)
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    for name, expires_at in (
        ("Bake", in_a_day),
        ("acid", None),
        ("50%", in_a_day + timedelta(days=1)),
        ("cake", None),
        ("over", in_a_day),
    ):
        until = None if expires_at is None else expires_at.isoformat()
        body = {"name": name, "scopes": ["profile"], "expires_at": until}
        assert operator.post("/api-keys", json=body).status_code == 201
    revoked = operator.post("/api-keys", json={"name": "gone", "scopes": ["profile"]}).json()
    operator.delete(f"/api-keys/{revoked['id']}")
    api.client(Role.ADMIN).post("/api-keys", json={"name": "of somebody else", "scopes": ["profile"]})
    # All of one moment, as a program makes them: only their ids tell them apart.
    moment = datetime.now(UTC) - timedelta(days=1)
    with api.context.catalog.write() as connection:
        connection.execute(sa.update(api_key).values(created_at=moment))
        connection.execute(sa.update(api_key).where(api_key.c.name == "over").values(expires_at=moment))

    def names(**query: str) -> list[str]:
        return [item["name"] for item in operator.get("/api-keys", params=query).json()["items"]]

    for order in ("asc", "desc"):
        ids = pages_of(operator, "/api-keys", order=order)
        assert (len(set(ids)), ids) == (5, sorted(ids))
    assert (
        pages_of(operator, "/api-keys", sort="expires_at")[:3]
        == pages_of(operator, "/api-keys", sort="expires_at", order="asc")[2::-1]
    )
    assert names(sort="expires_at", order="asc")[:3] == ["over", "Bake", "50%"]
    assert sorted(names(sort="expires_at")[3:]) == ["acid", "cake"]
    assert names(sort="name", order="asc", name="AK") == ["Bake", "cake"]
    assert names(name="%") == ["50%"]
    assert (names(expired="true"), len(names(expired="false"))) == (["over"], 4)
    for wrong in ({"sort": "key_hash"}, {"order": "up"}, {"expired": "maybe"}, {"name": "x" * 129}):
        assert operator.get("/api-keys", params=wrong).status_code == 422


def test_sessions_of_browsers(api: Api) -> None:
    people = api.context.people
    found = people.login("viewer", password_of("viewer"), CLIENT)
    browsers = [people.open_session(found.identity, CLIENT) for _ in range(2)]
    client = api.client(Cookie=f"{SESSION_COOKIE}={browsers[0].token}", Origin=api.url)
    listed = client.get("/auth/sessions").json()["items"]
    assert sorted(item["current"] for item in listed) == [False, True]
    other = next(item for item in listed if not item["current"])
    assert client.delete(f"/auth/sessions/{other['id']}").status_code == 204
    assert client.delete(f"/auth/sessions/{other['id']}").status_code == 404
    assert people.identify_session(browsers[1].token) is None
    assert client.post("/auth/logout").status_code == 204
    assert client.get("/auth/me").status_code == 401


def test_sessions_are_listed_in_pages_that_do_not_overlap(api: Api) -> None:
    people = api.context.people
    viewer = people.login("viewer", password_of("viewer"), CLIENT)
    for number in range(5):
        people.open_session(viewer.identity, dataclasses.replace(CLIENT, address=f"192.0.2.{number % 2}"))
    people.open_session(people.login("editor", password_of("editor"), CLIENT).identity, CLIENT)
    ended = people.open_session(viewer.identity, CLIENT)
    people.close_session(ended.token)
    moment = datetime.now(UTC)
    with api.context.catalog.write() as connection:
        connection.execute(sa.update(session).values(last_seen_at=moment))
    client = api.client(Role.VIEWER)
    for order in ("asc", "desc"):
        ids = pages_of(client, "/auth/sessions", order=order)
        assert (len(set(ids)), ids) == (5, sorted(ids))
    by_age = pages_of(client, "/auth/sessions", sort="created_at", order="asc")
    assert by_age[::-1] == pages_of(client, "/auth/sessions", sort="expires_at")
    assert pages_of(client, "/auth/sessions", address="192.0.2.1") == sorted([by_age[1], by_age[3]])
    assert pages_of(client, "/auth/sessions", address="192.0.2.9") == []
    for wrong in ({"sort": "token_hash"}, {"order": "up"}, {"address": "x" * 65}):
        assert client.get("/auth/sessions", params=wrong).status_code == 422


def test_the_trail_over_http(api: Api) -> None:
    admin = api.client(Role.ADMIN)
    page = admin.get("/audit", params={"action": "user.*", "outcome": "allowed", "limit": 2}).json()
    assert page["total"] == 5
    assert [item["action"] for item in page["items"]] == ["user.login", "user.create"]
    assert admin.get("/audit", params={"since": "2026-01-01"}).status_code == 422
    assert admin.get("/audit", params={"since": "2026-01-01T00:00:00Z", "actor": "admin"}).json()["total"] == 1
    verdict = admin.get("/audit/verify").json()
    assert verdict["intact"]
    assert admin.get("/audit/verify", params={"expect": verdict["end"]}).json()["intact"]
    number = verdict["end"].partition(":")[0]
    forged = admin.get("/audit/verify", params={"expect": f"{number}:{'0' * 64}"}).json()
    assert (forged["intact"], str(forged["broken_at"])) == (False, number)
    assert admin.get("/audit/verify", params={"expect": "nonsense"}).status_code == 422


@pytest.mark.parametrize("path", ["/auth/me", "/users", "/audit", "/api-keys"])
def test_behind_a_sealed_vault_a_token_gets_503_and_a_key_its_answer(api: Api, path: str) -> None:
    admin = api.client(Role.ADMIN)
    scopes = ["profile", "people:manage", "audit:read"]
    key = admin.post("/api-keys", json={"name": "key", "scopes": scopes}).json()["key"]
    api.context.catalog.vault.seal()
    answer = admin.get(path)
    assert answer.status_code == 503
    assert answer.json()["hint"]
    assert api.client(**{"X-API-Key": key}).get(path).status_code == 200
