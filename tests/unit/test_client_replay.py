"""The replay of event logs, against a service in this process that answers as it is told."""

from pathlib import Path
from typing import Any

import grpc
import polars as pl
import pytest
from card_recycling.v1.card_service_pb2 import IssueCardsRequest
from card_recycling.v1.recycling_service_pb2 import RecycleRequest

from clients.python import Retries
from clients.python.card_terms import CardTerms
from clients.python.event_log import Event, LogError, read_events
from clients.python.replay import FAILURES_IN_A_ROW_MAX, replay, runs
from tests.unit.test_client import FakeService, client_of, failure

HEADER = "event_time,event_kind,account_id,card_id,amount_minor,device_id,ip,age,vpn,label\n"
AWAY = failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


def log(folder: Path, *rows: str, header: str = HEADER) -> list[Event]:
    """The events of a CSV log with these rows."""
    path = folder / "log.csv"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return read_events(path)


async def driven(service: FakeService, events: list[Event]) -> dict[str, Any]:
    """Replays against `service`, without retries."""
    async with client_of(service, retries=Retries(attempts_max=1)) as (client, _):
        return await replay(client, events, CardTerms(paid_minor=500))


async def test_recycle_of_unknown_card_issues_and_activates_it(tmp_path: Path) -> None:
    """A log may begin in the middle: what a recycle needs is made first."""
    service = FakeService()
    await driven(service, log(tmp_path, "2026-01-01T00:00:00Z,RECYCLE,a,c,,d,,,,"))
    assert service.methods() == ["IssueCards", "ActivateCard", "Recycle"]


async def test_known_card_is_not_issued_again(tmp_path: Path) -> None:
    """What the log itself issued and activated is used as it is."""
    service = FakeService()
    rows = [
        f"2026-01-01T00:0{minute}:00Z,{kind},a,c,,d,,,," for minute, kind in enumerate(("ISSUE", "ACTIVATE", "RECYCLE"))
    ]
    await driven(service, log(tmp_path, *rows))
    assert service.methods() == ["IssueCards", "ActivateCard", "Recycle"]


async def test_calls_carry_the_time_of_the_event(tmp_path: Path) -> None:
    """The clock of each call is its event's time."""
    service = FakeService()
    await driven(service, log(tmp_path, "2015-01-01T00:00:00,RECYCLE,a,c,,d,,,,"))
    assert {call.metadata["card-recycling-backtest-time"] for call in service.calls} == {"2015-01-01T00:00:00.000000Z"}


async def test_price_is_known_from_the_recycle_ahead(tmp_path: Path) -> None:
    """A card is issued at the price that its later recycle tells; others at the default."""
    service = FakeService()
    rows = [
        "2026-01-01T00:00:00Z,ISSUE,a,c1,,,,,,",
        "2026-01-01T00:01:00Z,ISSUE,b,c2,,,,,,",
        "2026-01-01T00:02:00Z,RECYCLE,a,c1,1400,d,,,,",
    ]
    await driven(service, log(tmp_path, *rows))
    assert [call.request.items[0].paid_minor for call in service.calls[:2]] == [1400, 500]


async def test_serials_are_those_of_the_log(tmp_path: Path) -> None:
    """A card is issued with the serial that any of its events tells, once a platform; no other serial is made up."""
    service = FakeService()
    rows = [
        "2026-01-01T00:00:00Z,ISSUE,a,c1,iqiyi,",
        "2026-01-01T00:01:00Z,RECYCLE,a,c1,iqiyi,S-1201",
        "2026-01-01T00:02:00Z,ISSUE,b,c2,iqiyi,S-1201",
        "2026-01-01T00:03:00Z,ISSUE,b,c3,tencent,S-1201",
        "2026-01-01T00:04:00Z,ISSUE,c,c4,iqiyi,no serial",
        "2026-01-01T00:05:00Z,ISSUE,d,c5,iqiyi,",
        "2026-01-01T00:06:00Z,ISSUE,e,,iqiyi,S-1202",
    ]
    await driven(service, log(tmp_path, *rows, header="event_time,event_kind,account_id,card_id,platform,serial\n"))
    items = [call.request.items[0] for call in service.calls if isinstance(call.request, IssueCardsRequest)]
    assert [item.external_serial for item in items] == ["S-1201", "", "S-1201", "", "", "S-1202"]
    assert [item.HasField("external_serial") for item in items] == [True, False, True, False, False, True]


async def test_devices_clock_is_as_far_off_as_the_log_says(tmp_path: Path) -> None:
    """A request tells its device's clock where the log tells how far it was off, and none where it does not."""
    service = FakeService()
    rows = ["2026-01-01T00:00:00Z,RECYCLE,a,c1,d,90.5", "2026-01-01T00:01:00Z,RECYCLE,b,c2,d,"]
    header = "event_time,event_kind,account_id,card_id,device_id,clock_skew_seconds\n"
    await driven(service, log(tmp_path, *rows, header=header))
    told, silent = (call.request.device for call in service.calls if isinstance(call.request, RecycleRequest))
    assert told.clock_time.ToJsonString() == "2026-01-01T00:01:30.500Z" and not silent.HasField("clock_time")


async def test_recycles_of_one_moment_go_in_one_batch(tmp_path: Path) -> None:
    """Consecutive recycles of one time and different accounts are asked for at once."""
    service = FakeService()
    rows = [f"2026-01-01T00:00:00Z,RECYCLE,{account},c{account},,d,,,," for account in "abc"]
    await driven(service, log(tmp_path, *rows))
    assert service.methods() == ["IssueCards", *["ActivateCard"] * 3, "BatchRecycle"]


async def test_reactivate_and_compensate_name_the_last_recycling(tmp_path: Path) -> None:
    """Later events are about what the card's recycle made."""
    service = FakeService()
    kinds = ("RECYCLE", "COMPENSATE", "REACTIVATE")
    rows = [f"2026-01-01T00:0{minute}:00Z,{kind},a,c,,d,,,," for minute, kind in enumerate(kinds)]
    await driven(service, log(tmp_path, *rows))
    assert [call.request.recycling_id for call in service.calls[3:]] == ["recycling-of-card-of-a"] * 2


async def test_what_was_settled_with_the_recycle_is_not_settled_again(tmp_path: Path) -> None:
    """A log tells an instant settlement as an event of its own, which the recycle has done already; a second one is
    asked for."""
    service = FakeService()
    kinds = ("RECYCLE", "COMPENSATE", "COMPENSATE")
    rows = [f"2026-01-01T00:0{minute}:00Z,{kind},a,c,,settled at once,,,," for minute, kind in enumerate(kinds)]
    report = await driven(service, log(tmp_path, *rows))
    assert service.methods()[2:] == ["Recycle", "Compensate"]
    assert [row["rows"] for row in report["outcomes"] if row["kind"] == "COMPENSATE"] == [2]


async def test_account_without_card_ids_gets_a_new_card_after_a_recycle(tmp_path: Path) -> None:
    """Where the log names no cards, each recycle of an account is about another one."""
    service = FakeService()
    rows = [f"2026-01-01T00:0{minute}:00Z,RECYCLE,a,,,d,,,," for minute in range(2)]
    await driven(service, log(tmp_path, *rows))
    assert service.methods() == ["IssueCards", "ActivateCard", "Recycle"] * 2


async def test_request_ids_differ(tmp_path: Path) -> None:
    """No two requests of a replay share an id."""
    service = FakeService()
    rows = [f"2026-01-01T00:0{minute}:00Z,RECYCLE,a,c{minute},,d,,,," for minute in range(3)]
    await driven(service, log(tmp_path, *rows))
    requests = [item for call in service.calls for item in getattr(call.request, "items", [call.request])]
    assert len({request.request_id for request in requests}) == len(requests) == 9


async def test_report_compares_refusals_with_labels(tmp_path: Path) -> None:
    """Refusal rates by label, precision, recall and the areas under the curves are those of the decisions."""
    devices = [
        ("bad1", 1),
        ("bad2", 1),
        ("good1", 1),
        ("bad3", 0),
        ("good2", 0),
        ("good3", 0),
        ("good4", 0),
        ("bad4", ""),
    ]
    rows = [
        f"2026-0{1 + row % 2}-01T00:0{row}:00Z,RECYCLE,a{row},c{row},,{device},,,,{label}"
        for row, (device, label) in enumerate(devices)
    ]
    report = await driven(FakeService(), log(tmp_path, *rows))
    assert [(row["label"], row["rows"], row["refused"]) for row in report["by_label"]] == [
        (1, 3, 2),
        (0, 4, 1),
        (None, 1, 1),
    ]
    assert (report["precision"], report["recall"], report["false_positive_rate"]) == (2 / 3, 2 / 3, 1 / 4)
    assert report["roc_auc"] == pytest.approx((2 * 3 + 2 * 0.5 + 3 * 0.5) / 12)
    assert [month["month"] for month in report["by_month"]] == ["2026-01", "2026-02"]


async def test_business_refusal_is_an_answer(tmp_path: Path) -> None:
    """An event that the service's rules refuse was driven; its reason is counted."""
    service = FakeService(failure(grpc.StatusCode.FAILED_PRECONDITION, "CARD_STATE_INVALID"))
    report = await driven(service, log(tmp_path, "2026-01-01T00:00:00Z,ISSUE,a,c,,,,,,"))
    assert report["not_driven"] == 0
    assert report["outcomes"] == [{"kind": "ISSUE", "outcome": "CARD_STATE_INVALID", "label": None, "rows": 1}]


async def test_failure_is_counted_as_not_driven(tmp_path: Path) -> None:
    """An event that the service could not answer is told apart, and the replay goes on."""
    rows = [f"2026-01-01T00:0{minute}:00Z,ISSUE,a,c{minute},,,,,," for minute in range(2)]
    report = await driven(FakeService(AWAY), log(tmp_path, *rows))
    assert (report["events"], report["not_driven"], report["last_failure"]) == (2, 1, "STORE_UNAVAILABLE: no")


async def test_replay_gives_up_on_a_service_that_is_away(tmp_path: Path) -> None:
    """After many failures in a row the replay ends."""
    rows = [f"2026-01-01T00:{minute}:00Z,ISSUE,a,c{minute},,,,,," for minute in range(10, 50)]
    report = await driven(FakeService(*[AWAY] * 40), log(tmp_path, *rows))
    assert report["events"] == FAILURES_IN_A_ROW_MAX


def test_runs_are_of_one_time_one_kind_and_different_accounts(tmp_path: Path) -> None:
    """A run ends where the time, the kind or an account repeats."""
    rows = [f"2026-01-01T00:0{row}:00Z" for row in (0, 0, 0, 0, 1)]
    kinds, accounts = ("ISSUE", "ISSUE", "ISSUE", "RECYCLE", "RECYCLE"), "abacd"
    events = log(
        tmp_path,
        *(f"{time},{kind},{account},,,,,,," for time, kind, account in zip(rows, kinds, accounts, strict=True)),
    )
    assert [len(run) for run in runs(events)] == [2, 1, 1, 1]


def test_events_come_in_time_order(tmp_path: Path) -> None:
    """Events are sorted by time, those of one time stay in the order of their rows."""
    rows = [f"2026-01-0{day}T00:00:00Z,ISSUE,a,,,,,,," for day in (2, 1, 2)]
    assert [event.row for event in log(tmp_path, *rows)] == [1, 0, 2]


def test_cells_are_parsed_and_unknown_ones_left_out(tmp_path: Path) -> None:
    """A device says what its row knows; an unreadable address is unknown."""
    (event,) = log(tmp_path, "2026-01-01T00:00:00Z,RECYCLE,a,c,1400.0,d,not-an-address,38,true,1")
    device = event.device()
    assert (device.device_id, device.ip, device.vpn, device.HasField("rooted")) == ("d", "", True, False)
    assert (event.cells["amount_minor"], event.cells["age"], event.label) == (1400, 38, 1)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz"])
def test_other_formats_read_alike(tmp_path: Path, name: str) -> None:
    """Parquet and compressed CSV give the events that plain CSV gives."""
    plain = log(tmp_path, "2026-01-01T00:00:00Z,RECYCLE,a,c,1400,d,10.0.0.1,38,true,1")
    frame = pl.read_csv(tmp_path / "log.csv", try_parse_dates=True)
    path = tmp_path / name
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    else:
        frame.write_csv(path, compression="gzip")
    assert read_events(path) == plain


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("yesterday,ISSUE,a,,,,,,,", "row 0.*yesterday"),
        ("2026-01-01T00:00:00Z,SELL,a,,,,,,,", "row 0.*SELL"),
        ("2026-01-01T00:00:00Z,ISSUE,,,,,,,,", "row 0: no account_id"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,much,,,,,", "row 0.*much"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,1e400,,,,,", "row 0.*out of range"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,2.7,,,,,", "row 0: column amount_minor: 2.7 is not a whole number"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,,,,,,7", "row 0: column label: 7 is neither true nor false"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,,,,,perhaps,", "row 0.*perhaps"),
        ("2026-01-01T00:00:00Z,ISSUE,a,,-1,,,,,", "row 0: column amount_minor: -1 is out of range"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    """A row that cannot be read stops the reading, by its number."""
    with pytest.raises(LogError, match=message):
        log(tmp_path, row)


def test_missing_column_is_named(tmp_path: Path) -> None:
    """A log without its required columns is refused."""
    path = tmp_path / "log.csv"
    path.write_text("event_time,event_kind\n")
    with pytest.raises(LogError, match="account_id"):
        read_events(path)
