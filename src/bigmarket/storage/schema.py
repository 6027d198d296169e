"""Every table, with the constraints that would refuse a bug.

Names and business keys are the reference system's, so that its data can be imported. Times are epoch milliseconds
(``*_ms``), credits are hundredths (``*_cents``), ids are 26-character ULIDs. A table's comment names the invariants
of ``bigmarket doctor`` that its constraints carry.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from bigmarket.storage.types import CLUSTERED, DAY, DOCUMENT, KEY, MONTH, NUMBER, SEED, STATE, ULID, USER

#: MySQL wants a CHECK's name to be unique in the whole schema.
_NAMES = {
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}
metadata = MetaData(naming_convention=_NAMES)


def _clustered(name: str, *items: Column[Any] | CheckConstraint | UniqueConstraint | Index, comment: str) -> Table:
    """A table stored by its primary key."""
    return Table(name, metadata, *items, comment=comment, **CLUSTERED)


def _key(name: str, kind: TypeEngine[Any] | type[TypeEngine[Any]]) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _one_of(column: str, *states: str) -> CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


# --- configuration: what `apply` writes and `armory` compiles -----------------------------------------------------

award = _clustered(
    "award",
    _key("activity_id", BigInteger),
    _key("award_id", BigInteger),
    Column("award_key", KEY, nullable=False),
    Column("award_config", String(128), nullable=False),
    Column("award_desc", String(128)),
    Column("claim_days", Integer, comment="Days in which a winner may claim it; NULL: for ever."),
    comment="What can be delivered; award_key is its kind.",
)

daily_behavior_rebate = _clustered(
    "daily_behavior_rebate",
    _key("activity_id", BigInteger),
    _key("position", Integer),
    Column("behavior_type", KEY, nullable=False),
    Column("rebate_type", KEY, nullable=False),
    Column("rebate_config", String(32), nullable=False),
    Column("rebate_desc", String(128)),
    Column("streak_days", Integer, nullable=False, server_default="0", comment="Earned on every n-th day in a row."),
    comment="What a behavior earns: one unit of a sku, or credits.",
)

raffle_activity = _clustered(
    "raffle_activity",
    _key("activity_id", BigInteger),
    Column("activity_name", String(128), nullable=False),
    Column("activity_desc", String(128)),
    Column("time_zone", String(64), nullable=False),
    Column("begin_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("strategy_id", BigInteger, nullable=False, unique=True),
    Column("state", STATE, nullable=False),
    Column("revision_id", String(16), comment="The live revision; NULL until armed."),
    Column("epoch", Integer, nullable=False, server_default="0", comment="The open seed epoch."),
    _one_of("state", "create", "open", "close"),
    CheckConstraint("begin_ms < end_ms", name="window_ordered"),
    comment="A campaign. State, window and live revision are read by every process within a second.",
)

raffle_activity_count = _clustered(
    "raffle_activity_count",
    _key("activity_count_id", BigInteger),
    Column("total_count", BigInteger, nullable=False),
    Column("day_count", BigInteger, nullable=False),
    Column("month_count", BigInteger, nullable=False),
    comment="Draws in a bundle; activity_count_id is the sku's id unless imported.",
)

raffle_activity_sku = _clustered(
    "raffle_activity_sku",
    _key("sku", BigInteger),
    Column("activity_id", BigInteger, nullable=False, index=True),
    Column("activity_count_id", BigInteger, nullable=False),
    Column("sku_name", String(128)),
    Column("stock_count", BigInteger, nullable=False),
    Column("product_cents", BigInteger, nullable=False),
    comment="A bundle of draws: stock and price.",
)

strategy = _clustered(
    "strategy",
    _key("strategy_id", BigInteger),
    Column("strategy_desc", String(128), nullable=False),
    Column("rule_models", String(256), comment="The chain's rules in order, comma-separated."),
    comment="The wheel of one activity.",
)

strategy_award = _clustered(
    "strategy_award",
    _key("strategy_id", BigInteger),
    _key("award_id", BigInteger),
    Column("award_title", String(128), nullable=False),
    Column("award_subtitle", String(128)),
    Column("award_count", BigInteger, comment="Units that may ever be won; NULL: unlimited."),
    Column("award_rate", String(24), nullable=False, comment="An exact decimal, as text."),
    Column("rule_models", KEY, comment="Id of the award's tree."),
    Column("sort", Integer, nullable=False),
    comment="A sector of the wheel.",
)

strategy_rule = _clustered(
    "strategy_rule",
    _key("strategy_id", BigInteger),
    _key("rule_model", KEY),
    Column("rule_value", DOCUMENT, nullable=False, comment="The rule's settings as JSON."),
    comment="A rule of the chain.",
)

rule_tree = _clustered(
    "rule_tree",
    _key("strategy_id", BigInteger),
    _key("tree_id", KEY),
    Column("tree_name", String(128)),
    Column("tree_node_rule_key", KEY, nullable=False, comment="The root."),
    comment="Rules judged after the roll.",
)

rule_tree_node = _clustered(
    "rule_tree_node",
    _key("strategy_id", BigInteger),
    _key("tree_id", KEY),
    _key("rule_key", KEY),
    Column("rule_value", Text, nullable=False, comment="The rule's settings as JSON."),
    comment="A node of a tree.",
)

rule_tree_node_line = _clustered(
    "rule_tree_node_line",
    _key("strategy_id", BigInteger),
    _key("tree_id", KEY),
    _key("rule_node_from", KEY),
    _key("rule_limit_value", STATE),
    Column("rule_node_to", KEY, nullable=False),
    comment="Where a node's verdict leads.",
)

activity_revision = _clustered(
    "activity_revision",
    _key("activity_id", BigInteger),
    _key("revision_id", String(16)),
    Column("sha256", String(64), nullable=False),
    Column("document", DOCUMENT, nullable=False, comment="Canonical JSON of the whole campaign."),
    Column("create_time_ms", BigInteger, nullable=False),
    comment="Compiled configurations, never changed.",
)

seed_epoch = _clustered(
    "seed_epoch",
    _key("activity_id", BigInteger),
    _key("epoch", Integer),
    Column("seed_sha256", String(64), nullable=False, comment="Published before the seed's first use."),
    Column("seed", SEED, nullable=False, comment="Revealed once the epoch is closed."),
    Column("open_time_ms", BigInteger, nullable=False),
    Column("close_time_ms", BigInteger),
    comment="Seeds of the dice.",
)

raffle_activity_stage = _clustered(
    "raffle_activity_stage",
    _key("stage_id", BigInteger),
    Column("channel", KEY, nullable=False),
    Column("source", KEY, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("state", STATE, nullable=False),
    UniqueConstraint("channel", "source", "activity_id", name="uq_activity_stage_place"),
    _one_of("state", "create", "active", "expire"),
    comment="Which activity a channel's source shows: at most one active at a time.",
)

runtime_switch = _clustered(
    "runtime_switch",
    _key("switch_key", KEY),
    Column("value", String(64), nullable=False),
    Column("update_time_ms", BigInteger, nullable=False),
    comment="What operators change while it runs; every process sees it within a second.",
)

webhook_endpoint = _clustered(
    "webhook_endpoint",
    _key("endpoint", KEY),
    Column("url", String(512), nullable=False),
    Column("secret", String(128), nullable=False),
    Column("previous_secret", String(128), comment="Also signs until previous_until_ms."),
    Column("previous_until_ms", BigInteger),
    Column("state", STATE, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    _one_of("state", "open", "close"),
    comment="Where awards are delivered by HTTP.",
)

redemption_code = _clustered(
    "redemption_code",
    _key("pool", KEY),
    _key("code", String(128)),
    Column("order_id", ULID, unique=True, comment="Who won it; NULL: free."),
    Column("upload_time_ms", BigInteger, nullable=False),
    Column("taken_time_ms", BigInteger),
    Index("ix_redemption_code_free", "pool", "order_id"),
    comment="Codes that are won, each once.",
)

# --- the installation: which databases belong together, and who does what -----------------------------------------

layout = _clustered(
    "layout",
    _key("fact", KEY),
    Column("value", String(64), nullable=False),
    comment="What this database is: of which installation, which shard of how many, how its tables are split.",
)

lease = _clustered(
    "lease",
    _key("job", String(64)),
    Column("holder", ULID, nullable=False),
    Column("fencing", BigInteger, nullable=False, comment="Grows with every change of holder."),
    Column("until_ms", BigInteger, nullable=False, comment="By the database's clock."),
    comment="Which process does a job that only one may do.",
)

# --- stock: escrow in the shard's own database --------------------------------------------------------------------

stock_hub = _clustered(
    "stock_hub",
    _key("strategy_id", BigInteger),
    _key("item_id", BigInteger),
    Column("total", BigInteger, comment="Units there are; NULL: unlimited."),
    Column("allotted", BigInteger, nullable=False, server_default="0", comment="Units given to shards."),
    CheckConstraint("allotted >= 0 AND (total IS NULL OR allotted <= total)", name="never_overdrawn"),
    comment="S3: units of a prize (strategy_id 0: of a sku) and how many live in shards; several shards only.",
)

stock_transfer = _clustered(
    "stock_transfer",
    _key("transfer_id", ULID),
    Column("shard", Integer, nullable=False),
    Column("strategy_id", BigInteger, nullable=False),
    Column("item_id", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False, comment="Below 0: given back."),
    Column("state", STATE, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    _one_of("state", "sent", "applied"),
    comment="S3: units that the hub gave to a shard or took back; `sent` ones may be on their way.",
)

stock_receipt = _clustered(
    "stock_receipt",
    _key("transfer_id", ULID),
    Column("strategy_id", BigInteger, nullable=False),
    Column("item_id", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("settled", Integer, nullable=False, comment="1 once the hub knows of it."),
    comment="S3: transfers that this shard has applied, each once.",
)

award_stock = _clustered(
    "award_stock",
    _key("strategy_id", BigInteger),
    _key("award_id", BigInteger),
    Column("alloc", BigInteger, comment="Units this shard may give; NULL: unlimited."),
    Column("sold", BigInteger, nullable=False, server_default="0"),
    Column(
        "returned", BigInteger, nullable=False, server_default="0", comment="Units of alloc that voids gave back."
    ),
    CheckConstraint("sold >= 0 AND (alloc IS NULL OR sold <= alloc)", name="never_oversold"),
    comment="S1: units of a prize that live in this shard.",
)

sku_stock = _clustered(
    "sku_stock",
    _key("sku", BigInteger),
    Column("alloc", BigInteger, nullable=False),
    Column("sold", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("sold >= 0 AND sold <= alloc", name="never_oversold"),
    comment="S1: units of a sku that live in this shard.",
)

# --- users: everything below is written in one transaction of one user shard --------------------------------------

raffle_activity_account = _clustered(
    "raffle_activity_account",
    _key("user_id", USER),
    _key("activity_id", BigInteger),
    Column("total_count", BigInteger, nullable=False),
    Column("total_count_surplus", BigInteger, nullable=False),
    Column("month", MONTH, nullable=False, comment="yyyy-mm that the month's counters belong to."),
    Column("month_count", BigInteger, nullable=False),
    Column("month_count_surplus", BigInteger, nullable=False),
    Column("day", DAY, nullable=False, comment="yyyy-mm-dd that the day's counters belong to."),
    Column("day_count", BigInteger, nullable=False),
    Column("day_count_surplus", BigInteger, nullable=False),
    Column("open_orders", Integer, nullable=False, server_default="0", comment="Its raffle orders in state create."),
    CheckConstraint("total_count_surplus BETWEEN 0 AND total_count", name="total_covered"),
    CheckConstraint("month_count_surplus BETWEEN 0 AND month_count", name="month_covered"),
    CheckConstraint("day_count_surplus BETWEEN 0 AND day_count", name="day_covered"),
    CheckConstraint("open_orders >= 0", name="open_orders_counted"),
    comment="Q1: a user's draw quota; the month's and the day's counters roll over lazily.",
)

raffle_activity_order = _clustered(
    "raffle_activity_order",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("sku", BigInteger, nullable=False),
    Column("total_count", BigInteger, nullable=False),
    Column("month_count", BigInteger, nullable=False),
    Column("day_count", BigInteger, nullable=False),
    Column("pay_cents", BigInteger, nullable=False),
    Column("state", STATE, nullable=False),
    Column("out_business_no", NUMBER, nullable=False, unique=True),
    Column("order_time_ms", BigInteger, nullable=False),
    _one_of("state", "wait_pay", "completed", "expired"),
    Index("ix_activity_order_user", "user_id", "order_time_ms"),
    comment="Q3: a recharge of an account, once per out_business_no.",
)

unpaid_order = _clustered(
    "unpaid_order",
    _key("user_id", USER),
    _key("sku", BigInteger),
    Column("order_id", ULID, nullable=False, unique=True),
    Column("out_business_no", NUMBER, nullable=False),
    Column("expire_at_ms", BigInteger, nullable=False),
    Index("ix_unpaid_order_expiry", "expire_at_ms"),
    comment="Quota orders in state wait_pay, which hold a unit of their sku; at most one per user and sku.",
)

user_raffle_order = _clustered(
    "user_raffle_order",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("order_state", STATE, nullable=False),
    Column("order_day", DAY, nullable=False, comment="The day whose quota it used."),
    Column("order_time_ms", BigInteger, nullable=False),
    Column("request_id", String(64)),
    UniqueConstraint("user_id", "request_id", name="uq_raffle_order_request_id"),
    _one_of("order_state", "create", "used", "cancel"),
    comment="D2: the right to draw once, at most one per (user, request_id).",
)

user_award_record = _clustered(
    "user_award_record",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("strategy_id", BigInteger, nullable=False),
    Column("award_id", BigInteger, nullable=False),
    Column("award_title", String(128), nullable=False),
    Column("award_index", Integer, nullable=False),
    Column("award_config", String(128), comment="What a rule put in place of the award's own config."),
    Column("award_state", STATE, nullable=False),
    Column("award_time_ms", BigInteger, nullable=False),
    Column("revision_id", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("rolled", BigInteger, comment="The number rolled; NULL when a rule gave the award."),
    Column("trace", String(255), nullable=False, comment="ordinal/ordinal today|table|rule:VERDICT|..."),
    _one_of("award_state", "create", "completed", "fail"),
    Index("ix_award_record_user", "user_id", "award_time_ms"),
    comment="D1: what an order won, and how that can be derived again.",
)

user_award_count = _clustered(
    "user_award_count",
    _key("user_id", USER),
    _key("strategy_id", BigInteger),
    _key("award_id", BigInteger),
    Column("won", BigInteger, nullable=False),
    Column(
        "epoch", Integer, nullable=False, comment="All is counted as long as this epoch is open; 0: it may not be."
    ),
    CheckConstraint("won >= 0", name="counted"),
    comment="D8: how often a user won a prize of which nobody may win more than so many.",
)

award_delivery = _clustered(
    "award_delivery",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("award_id", BigInteger, nullable=False),
    Column("award_key", KEY, nullable=False, comment="The kind that delivers it."),
    Column("place", KEY, nullable=False, comment="Where it goes: an endpoint, a pool of codes."),
    Column("message", Text, nullable=False, comment="The award's own message as JSON."),
    Column("state", STATE, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at_ms", BigInteger, nullable=False, comment="When a delivery that is due is tried."),
    Column("reason", String(255), comment="Why the last attempt failed."),
    Column("contact", Text, comment="Where a claimed thing goes to, as JSON."),
    Column("result", Text, comment="What the winner was given: a code, a tracking number; as JSON."),
    Column("create_time_ms", BigInteger, nullable=False),
    Column("update_time_ms", BigInteger, nullable=False),
    _one_of("state", "due", "parked", "claimed", "done", "void"),
    Index("ix_award_delivery_due", "state", "place", "next_at_ms"),
    CheckConstraint("state <> 'parked' OR reason IS NOT NULL", name="parked_with_reason"),
    comment="M2: deliveries that take more than a transaction: by HTTP, by code, by hand.",
)

delivery_attempt = _clustered(
    "delivery_attempt",
    _key("order_id", ULID),
    _key("attempt", Integer),
    Column("time_ms", BigInteger, nullable=False),
    Column("status", Integer, comment="HTTP status; NULL: there was no answer."),
    Column("reason", String(255), comment="NULL: it was delivered."),
    Column("duration_ms", BigInteger, nullable=False),
    comment="The log of a delivery.",
)

award_void = _clustered(
    "award_void",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False),
    Column("award_id", BigInteger, nullable=False),
    Column("stock_returned", Integer, nullable=False, comment="1: the unit can be won again."),
    Column("quota_returned", Integer, nullable=False, comment="1: the user has the draw back."),
    Column("credit_cents", BigInteger, nullable=False, comment="Credits of the award that were taken back."),
    Column("reason", String(255), nullable=False),
    Column("void_time_ms", BigInteger, nullable=False),
    comment="Awards that an operator took back, each once; the record is in state fail.",
)

task = _clustered(
    "task",
    _key("message_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("topic", KEY, nullable=False),
    Column("message", Text, nullable=False),
    Column("state", STATE, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at_ms", BigInteger, nullable=False),
    Column("reason", String(255), comment="Why the last attempt failed."),
    _one_of("state", "create", "fail", "parked"),
    CheckConstraint("state <> 'parked' OR reason IS NOT NULL", name="parked_with_reason"),
    comment="M1, M3: the outbox; a task that is done is deleted. An award's message id is its order id.",
)

user_behavior = _clustered(
    "user_behavior",
    _key("user_id", USER),
    _key("activity_id", BigInteger),
    _key("behavior_type", KEY),
    _key("out_business_no", NUMBER),
    Column("streak", Integer, nullable=False, comment="Days in a row, this one included; 1 where days do not count."),
    Column("create_time_ms", BigInteger, nullable=False),
    comment="R1: what a user did, once per out_business_no: a sign-in's is its day, yyyymmdd.",
)

user_behavior_rebate_order = _clustered(
    "user_behavior_rebate_order",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("activity_id", BigInteger, nullable=False, server_default="0"),
    Column("behavior_type", KEY, nullable=False),
    Column("rebate_type", KEY, nullable=False),
    Column("rebate_config", String(32), nullable=False),
    Column("rebate_desc", String(128)),
    Column("out_business_no", NUMBER, nullable=False),
    Column("biz_id", String(300), nullable=False, unique=True),
    Column("state", STATE, nullable=False, server_default="completed"),
    Column("reason", String(255), comment="Why it was not given."),
    Column("create_time_ms", BigInteger, nullable=False),
    _one_of("state", "create", "completed", "fail"),
    comment="R1: what a behavior earned, once per biz_id, and whether it was given.",
)

user_credit_account = _clustered(
    "user_credit_account",
    _key("user_id", USER),
    Column("total_cents", BigInteger, nullable=False, comment="Ever earned."),
    Column("available_cents", BigInteger, nullable=False),
    Column("account_status", STATE, nullable=False, server_default="open"),
    CheckConstraint("available_cents BETWEEN 0 AND total_cents", name="never_negative"),
    _one_of("account_status", "open", "close"),
    comment="C1: points.",
)

user_credit_order = _clustered(
    "user_credit_order",
    _key("order_id", ULID),
    Column("user_id", USER, nullable=False),
    Column("trade_name", KEY, nullable=False),
    Column("trade_type", STATE, nullable=False),
    Column("amount_cents", BigInteger, nullable=False, comment="Signed."),
    Column("out_business_no", NUMBER, nullable=False, unique=True),
    Column("create_time_ms", BigInteger, nullable=False),
    Column("reason", String(255), comment="Why somebody adjusted the balance."),
    _one_of("trade_type", "forward", "reverse"),
    Index("ix_credit_order_user", "user_id", "create_time_ms"),
    comment="C1: every movement of points, once per out_business_no.",
)

#: Tables that `tables_per_shard` splits; the rest of a shard has one of each.
SPLIT = (
    raffle_activity_order,
    user_raffle_order,
    user_award_record,
    user_behavior_rebate_order,
    user_credit_order,
)
