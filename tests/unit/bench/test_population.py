"""Users written in bulk are users like any other: doctor agrees, and they can draw."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

from sqlalchemy import func, select

from bigmarket.app import World, now_ms
from bigmarket.draw import Drawn
from bigmarket.settings import Settings
from bigmarket.storage import schema
from bigmarket.storage.doctor import examine
from campaign import ACTIVITY, bench_campaign, scarce_campaign, user_names, wide_campaign
from population import install, populate

USERS, DRAWS_BEFORE = 50, 3


def test_doctor_agrees_with_users_and_history_in_two_shards_and_they_can_draw(tmp_path: Path) -> None:
    shards = tuple(f"sqlite:///{tmp_path / name}.db" for name in ("one", "two"))
    settings = Settings(home=tmp_path, database=shards[0], shards=shards)
    with World(settings) as world:
        install(world.stores, bench_campaign())
        populate(world.stores, user_names(USERS), draws_before=DRAWS_BEFORE)
        world.live.refresh()
        answers: list[Future[Drawn]] = [Future() for _ in range(USERS)]
        for user, answer in zip(user_names(USERS), answers, strict=True):
            world.lanes.submit(user, ACTIVITY, None, reply=answer)
        assert all(isinstance(answer.result(timeout=10), Drawn) for answer in answers)
        assert [finding for finding in examine(world.stores, now_ms=now_ms()) if not finding.ok] == []
        made = 0
        for store in world.stores.shards:
            with store.reading() as connection:
                made += connection.execute(select(func.count()).select_from(schema.user_raffle_order)).scalar_one()
        assert made == USERS * (DRAWS_BEFORE + 1)


def test_doctor_notices_when_the_history_does_not_add_up(tmp_path: Path) -> None:
    with World(Settings(home=tmp_path)) as world:
        install(world.stores, bench_campaign())
        populate(world.stores, user_names(USERS), draws_before=DRAWS_BEFORE)
        with world.stores.config.writing() as connection:
            order = schema.user_raffle_order
            connection.execute(order.delete().where(order.c.user_id == "user0000007"))
        assert {finding.name for finding in examine(world.stores, now_ms=now_ms()) if not finding.ok} >= {"Q2", "D1"}


def test_the_wide_and_the_scarce_campaign_can_be_armed(tmp_path: Path) -> None:
    for number, campaign in enumerate((wide_campaign(200), scarce_campaign())):
        with World(Settings(home=tmp_path / str(number))) as world:
            install(world.stores, campaign)
