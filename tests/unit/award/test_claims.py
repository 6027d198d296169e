"""What a contact may say, and how a delivery stands for its winner."""

from __future__ import annotations

import pytest

from bigmarket.award.claims import (
    ADDRESS_MAX,
    DAY_MS,
    Contact,
    DeliveryView,
    Standing,
    clean_contact,
    delivery_view,
)
from bigmarket.award.model import Award
from bigmarket.errors import BadInput

NOW = 1_790_000_000_000
LAMP = Award(award_id=1, kind="physical", claim_days=30)
CHAIR = Award(award_id=2, kind="physical")
CODE = Award(award_id=3, kind="user_credit_random", config="1,2")


def test_a_contact_is_tidied() -> None:
    told = Contact(" Ann Lee ", "+86 (0)571 8888-7777", "1 West Lake Road, Hangzhou", "  ")
    assert clean_contact(told) == Contact("Ann Lee", "+86 (0)571 8888-7777", "1 West Lake Road, Hangzhou", None)
    assert clean_contact(Contact("小傅哥", "13800138000", "杭州", "放门口")).note == "放门口"


@pytest.mark.parametrize(
    ("contact", "field"),
    [
        (Contact("", "13800138000", "x"), "name is missing"),
        (Contact("ann", "1234", "x"), "phone must have at least 5 digits"),
        (Contact("ann", "call me", "x"), "phone must"),
        (Contact("ann", "13800138000", " "), "address is missing"),
        (Contact("ann", "13800138000", "x" * (ADDRESS_MAX + 1)), "address must have at most 300"),
        (Contact("ann", "13800138000", "x\ny"), "address must not contain control"),
        (Contact("ann", "13800138000", "x", "y" * 201), "note must have at most 200"),
    ],
)
def test_a_faulty_contact_is_refused_without_telling_it(contact: Contact, field: str) -> None:
    with pytest.raises(BadInput, match=field) as refused:
        clean_contact(contact)
    assert "call me" not in str(refused.value)


@pytest.mark.parametrize(
    ("standing", "award", "after_days", "view"),
    [
        (Standing("create", NOW, False, None, None), LAMP, 0, DeliveryView("unclaimed", NOW + 30 * DAY_MS)),
        (Standing("create", NOW, False, None, None), LAMP, 29.99, DeliveryView("unclaimed", NOW + 30 * DAY_MS)),
        (Standing("create", NOW, False, None, None), LAMP, 30, DeliveryView("expired", NOW + 30 * DAY_MS)),
        (Standing("create", NOW, False, None, None), CHAIR, 3_000, DeliveryView("unclaimed")),
        (Standing("create", NOW, False, "claimed", None), LAMP, 99, DeliveryView("claimed")),
        (
            Standing("completed", NOW, False, "done", {"carrier": "SF", "tracking": "1"}),
            LAMP,
            99,
            DeliveryView("shipped", carrier="SF", tracking="1"),
        ),
        (Standing("completed", NOW, False, None, None), LAMP, 0, DeliveryView("delivered")),  # imported
        (Standing("fail", NOW, True, None, None), LAMP, 0, DeliveryView("void")),
        (Standing("fail", NOW, True, "void", None), CODE, 0, DeliveryView("void")),
        (Standing("fail", NOW, False, "void", None), CODE, 0, DeliveryView("failed")),
        (Standing("create", NOW, False, None, None), CODE, 99, DeliveryView("waiting")),
        (Standing("create", NOW, False, "parked", None), CODE, 99, DeliveryView("waiting")),
        (Standing("completed", NOW, False, None, None), CODE, 0, DeliveryView("delivered")),
        (Standing("completed", NOW, False, "done", {"code": "x"}), CODE, 0, DeliveryView("delivered", code="x")),
        (Standing("completed", NOW, False, None, None), Award(award_id=4, kind="nothing"), 0, None),
        (Standing("completed", NOW, False, None, None), None, 0, None),
    ],
)
def test_how_a_delivery_stands(
    standing: Standing, award: Award | None, after_days: float, view: DeliveryView | None
) -> None:
    assert delivery_view(standing, award, now_ms=NOW + int(after_days * DAY_MS)) == view
