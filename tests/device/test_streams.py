"""Races between streams and memory that is used again too early are found, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from tests.device.findings import FOUND, RACE, REUSE, expected

pytestmark = pytest.mark.pretend


@pytest.fixture
def aside():
    return torch.cuda.Stream()


def test_a_read_of_what_another_stream_writes(aside):
    written = torch.ones(3, device="cuda")
    with expected(RACE) as races, torch.cuda.stream(aside):
        read = written + 1
    aside.synchronize()
    assert races[0].startswith(f"add reads on stream {aside.number}, beside stream 0: tests/device/test_streams.py")
    assert read.tolist() == [2] * 3


def test_a_write_to_what_another_stream_reads(aside):
    shared = torch.ones(3, device="cuda")
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        shared + 1
    with expected(RACE):
        shared.zero_()


def wait_stream(aside):
    aside.wait_stream(torch.cuda.current_stream())


def wait_event(aside):
    aside.wait_event(torch.cuda.current_stream().record_event())


def event_wait(aside):
    torch.cuda.current_stream().record_event().wait(aside)


def host_waits_for_the_stream(aside):
    torch.cuda.current_stream().synchronize()


def host_waits_for_the_device(aside):
    torch.cuda.synchronize()


def host_waits_for_an_event(aside):
    torch.cuda.current_stream().record_event().synchronize()


def host_reads(aside):
    torch.zeros(1, device="cuda").item()


ORDERS = [
    *(wait_stream, wait_event, event_wait),
    *(host_waits_for_the_stream, host_waits_for_the_device, host_waits_for_an_event, host_reads),
]


@pytest.mark.parametrize("order", ORDERS)
def test_work_that_waits_is_no_race(order, aside):
    shared = torch.ones(3, device="cuda")
    order(aside)
    with torch.cuda.stream(aside):
        shared.add_(1)
    assert not FOUND
    torch.cuda.synchronize()


def test_an_event_orders_the_work_before_it_alone(aside):
    early = torch.ones(3, device="cuda")
    event = torch.cuda.current_stream().record_event()
    late = torch.ones(3, device="cuda")
    aside.wait_event(event)
    with torch.cuda.stream(aside):
        early + 1
        assert not FOUND
        with expected(RACE):
            late + 1
    aside.synchronize()


def test_an_order_is_handed_on(aside):
    shared, third = torch.ones(3, device="cuda"), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    third.wait_stream(aside)
    with torch.cuda.stream(third):
        shared.add_(1)
    assert not FOUND
    torch.cuda.synchronize()


def test_views_share_their_memory(aside):
    whole = torch.ones(3, 4, device="cuda")
    part = whole[1:].T
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        part.zero_()
    with expected(RACE):
        whole.sum()
    aside.synchronize()


def test_memory_that_is_freed_while_another_stream_reads_it(aside):
    read = torch.ones(3, device="cuda")
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        read + 1
    with expected(REUSE):
        del read


def test_memory_is_free_once_its_last_view_is_gone(aside):
    whole = torch.ones(3, device="cuda")
    view = whole[1:]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        view + 1
    del whole
    assert not FOUND
    with expected(REUSE):
        del view


def record_stream(read, aside):
    read.record_stream(aside)


def home_waits(read, aside):
    torch.cuda.current_stream().wait_stream(aside)


def host_waits(read, aside):
    aside.synchronize()


@pytest.mark.parametrize("order", [record_stream, home_waits, host_waits])
def test_memory_that_is_freed_in_time(order, aside):
    read = torch.ones(3, device="cuda")
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        read + 1
    order(read, aside)
    del read
    assert not FOUND


def test_an_event_is_over_once_the_host_knows_it():
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    end.record()
    assert not end.query()
    with pytest.raises(RuntimeError, match="not ready"):
        begin.elapsed_time(end)
    end.synchronize()
    assert begin.query()
    assert begin.elapsed_time(end) > 0
