"""The program `recycling`, run as a process against a service in this one."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import error_details_pb2

from tests.unit.test_client import NOT_FOUND, FakeService, failure, served

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Finished:
    code: int
    out: str
    err: str


async def recycling(*arguments: str, **environment: str) -> Finished:
    """Runs the program to its end."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "RECYCLING_", "DATABASE_"))
    }
    paths = os.pathsep.join((str(PROJECT), str(PROJECT / "protos")))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.python.cli",
        *arguments,
        env={**inherited, "PYTHONPATH": paths, "NO_COLOR": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Finished(code=process.returncode, out=out.decode(), err=err.decode())


async def test_json_is_the_contracts_mapping() -> None:
    """With --json a record is printed as protobuf maps it, under the contract's field names."""
    async with served(FakeService()) as address:
        done = await recycling("recycle", "a", "c", "--device-id", "bad1", "--json", "--address", address)
    assert done.code == 0
    assert json.loads(done.out) == {
        "recycling_id": "recycling-of-c",
        "state": "RECYCLING_STATE_REJECTED",
        "decision": {"risk_score": 0.9, "reason_codes": ["RISK_HIGH"]},
    }


async def test_show_gives_the_whole_account() -> None:
    """An account is shown with its cards, recyclings and wallet."""
    async with served(FakeService(cards=1)) as address:
        done = await recycling("--address", address, "show", "a", "--json")
    assert json.loads(done.out) == {"cards": [{"card_id": "card-0"}], "recyclings": [], "wallet": {"account_id": "a"}}


async def test_tables_without_json() -> None:
    """Without --json a person reads the same in a table."""
    async with served(FakeService()) as address:
        done = await recycling("recycle", "a", "c", RECYCLING_ADDRESS=address)
    assert done.code == 0
    assert "recycling-of-c" in done.out
    assert "APPROVED" in done.out


async def test_lists_fit_the_width() -> None:
    """Where a row of a list would not fit, each record is a block of lines; COLUMNS tells the width of a file, too."""
    async with served(FakeService(cards=2)) as address:
        narrow, wide = [await recycling("show", "a", "--address", address, COLUMNS=width) for width in ("80", "120")]
    assert [line.split()[1:4:2] for line in narrow.out.splitlines() if "card-" in line] == [
        ["card_id", "card-0"],
        ["card_id", "card-1"],
    ]
    assert "generation" in wide.out
    assert "generation" not in narrow.out


async def test_options_become_the_device() -> None:
    """Single options go before the fields of --device-json."""
    service = FakeService()
    device, session = '{"os": "ios", "model": "m"}', '{"page_views": 3}'
    async with served(service) as address:
        await recycling(
            "activate", "a", "c", "--os", "android", "--no-vpn", "--device-json", device, "--behavior-json", session,
            "--address", address,
        )  # fmt: skip
    request = service.calls[0].request
    assert (request.device.os, request.device.model, request.device.HasField("vpn")) == ("android", "m", True)
    assert request.behavior.page_views == 3


async def test_error_is_printed_and_exits_1() -> None:
    """An error shows its reason, its message and the fields at fault."""
    field = error_details_pb2.BadRequest.FieldViolation(field="card_id", description="must be a UUID")
    bad = error_details_pb2.BadRequest(field_violations=[field])
    status = failure(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", bad, message="a field is invalid")
    async with served(FakeService(status)) as address:
        done = await recycling("recycle", "a", "c", "--address", address)
    assert (done.code, done.out, done.err.splitlines()) == (
        1,
        "",
        ["FIELD_INVALID: a field is invalid", "  card_id: must be a UUID"],
    )


async def test_show_of_unknown_card_exits_1() -> None:
    """What is not there is an error."""
    async with served(FakeService(NOT_FOUND)) as address:
        done = await recycling("show", "a", "--card", "c", "--address", address)
    assert (done.code, done.err) == (1, "CARD_NOT_FOUND: no\n")


async def test_reviews_are_listed() -> None:
    """A reviewer sees what waits, in a table; the options of the program hold for these commands too."""
    async with served(FakeService()) as address:
        done = await recycling("--address", address, "review", "list", "--state", "OPEN")
    assert done.code == 0
    assert "review-0" in done.out and "review-1" in done.out


async def test_claimed_review_is_shown_in_full() -> None:
    """A claim shows the review and each kind of evidence."""
    service = FakeService()
    async with served(service) as address:
        done = await recycling("review", "claim", "--as", "anna", "--address", address)
    assert service.calls[0].request.reviewer == "anna"
    assert "review-0" in done.out and "The address is hidden." in done.out and "similar: none" in done.out


async def test_review_is_shown_as_json() -> None:
    """With --json a review is printed as protobuf maps it, evidence and all."""
    async with served(FakeService()) as address:
        done = await recycling("review", "show", "r", "--json", "--address", address)
    shown = json.loads(done.out)
    assert (shown["review_id"], shown["evidence"]["signals"][0]["feature"]) == ("r", "vpn")


async def test_verdicts_are_sent() -> None:
    """Approval and denial carry who gave them and why."""
    service = FakeService()
    async with served(service) as address:
        for verdict in ("approve", "deny"):
            await recycling(
                "review", verdict, "r", "--note", "why", "--etag", "e",
                RECYCLING_REVIEWER="anna", RECYCLING_ADDRESS=address,
            )  # fmt: skip
    sent = [(call.request.verdict, call.request.reviewer, call.request.note) for call in service.calls]
    assert sent == [(1, "anna", "why"), (2, "anna", "why")]


async def test_verdict_needs_a_name() -> None:
    """A verdict of nobody is not sent."""
    done = await recycling("review", "approve", "r")
    assert done.code == 2


async def test_wrong_use_exits_2() -> None:
    """What cannot be understood is not sent."""
    service = FakeService()
    async with served(service) as address:
        done = await recycling("activate", "a", "c", "--device-json", "{", "--address", address)
    assert (done.code, service.calls) == (2, [])
    assert "--device-json" in done.err


async def test_replay_prints_its_report(tmp_path: Path) -> None:
    """A replay ends with one JSON object, progress aside."""
    path = tmp_path / "log.csv"
    path.write_text(
        "event_time,event_kind,account_id,device_id,label\n2026-01-01,RECYCLE,a,bad1,1\n2026-01-02,RECYCLE,b,d,0\n"
    )
    async with served(FakeService()) as address:
        done = await recycling("replay", "--events", str(path), "--json", "--address", address)
    report = json.loads(done.out)
    assert done.code == 0
    assert (report["events"], report["recall"], report["roc_auc"]) == (2, 1.0, 1.0)


async def test_replay_of_failing_service_exits_1(tmp_path: Path) -> None:
    """A replay that could not drive every event fails."""
    path = tmp_path / "log.csv"
    path.write_text("event_time,event_kind,account_id\n2026-01-01,ISSUE,a\n")
    async with served(FakeService(failure(grpc.StatusCode.INTERNAL, "INTERNAL"))) as address:
        done = await recycling("replay", "--events", str(path), "--address", address)
    assert done.code == 1
    assert "INTERNAL" in done.out


async def test_progress_of_a_replay_is_told_in_a_log(tmp_path: Path) -> None:
    """Where no terminal is, each tenth of a replay is a line on standard error."""
    path = tmp_path / "log.csv"
    rows = [f"2026-01-01T00:{minute}:00Z,ISSUE,a{minute}\n" for minute in range(10, 30)]
    path.write_text("event_time,event_kind,account_id\n" + "".join(rows))
    async with served(FakeService()) as address:
        done = await recycling("replay", "--events", str(path), "--address", address)
    assert done.err.splitlines() == [f"{count} of 20 events" for count in range(2, 21, 2)]


async def test_verify_of_no_database_exits_1() -> None:
    """A database that cannot be reached cannot be verified."""
    done = await recycling("verify", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("the database cannot be checked: ")


async def test_spans_are_exported_when_asked_for() -> None:
    """With an exporter named in the environment, calls are traced."""
    service = FakeService()
    async with served(service) as address:
        done = await recycling("activate", "a", "c", "--address", address, OTEL_TRACES_EXPORTER="console")
    assert "ActivateCard" in done.err
    assert "traceparent" in service.calls[0].metadata


async def test_outcome_of_now_or_then() -> None:
    """An outcome happened when it is said to have, else now by the service's clock; whose it is may be left out."""
    service = FakeService()
    async with served(service) as address:
        common = ("--kind", "COMPLAINT", "--address", address)
        then = await recycling("outcome", "r", "--account", "a", "--time", "2026-03-01T08:00", *common)
        just_now = await recycling("outcome", "r", *common)
    assert (then.code, just_now.code, service.methods()) == (0, 0, ["RecordOutcome", "RecordOutcome"])
    first, second = (call.request for call in service.calls)
    assert (first.account_id, first.time.ToJsonString()) == ("a", "2026-03-01T08:00:00Z")
    assert not second.HasField("account_id") and not second.HasField("time")


async def test_wallets_are_used_from_the_command_line() -> None:
    """Offers, an offer taken, an exchange and all pages of postings, each with what was asked for."""
    service = FakeService(postings=201)
    async with served(service) as address:
        offered = await recycling("offers", "--account", "a", "--json", "--address", address)
        taken = await recycling("redeem", "a", "iqiyi", "jd-voucher-10", "--json", "--address", address)
        changed = await recycling(
            "exchange",
            "a",
            "iqiyi",
            "COIN",
            "10",
            "tencent",
            "GROWTH_POINT",
            "--min",
            "5",
            "--json",
            "--address",
            address,
        )
        posted = await recycling("postings", "a", "--kind", "EXCHANGE", "--json", "--address", address)
    assert json.loads(offered.out)["offers"][0]["affordable"] is True
    assert json.loads(taken.out)["redemption"]["offer_id"] == "jd-voucher-10"
    assert json.loads(changed.out)["amount_out"] == "10"
    assert len(json.loads(posted.out)["postings"]) == 201
    requests = [call.request for call in service.calls]
    assert [type(request).__name__ for request in requests] == [
        "ListOffersRequest", "RedeemRequest", "ExchangeRequest", "ListPostingsRequest", "ListPostingsRequest",
    ]  # fmt: skip
    assert requests[2].min_amount == 5 and requests[1].request_id
