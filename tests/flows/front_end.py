"""The stock web front end as a client: its calls with its methods, headers and bodies, and the fields it reads.

Every field is checked for the very type that the page's code needs. It sends no header that it need not, and the
browser asks before each call whether it may send ``content-type``.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import httpx

FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json;charset=utf-8"}
ORIGIN = "http://localhost:3000"

REFRESH_AFTER_SIGN_IN_SECONDS = 0.55
REFRESH_AFTER_EXCHANGE_SECONDS = 0.35

AWARDS = [{"awardId": int, "awardTitle": str, "isAwardUnlock": bool, "waitUnLockCount": int}]
TIERS = [
    {
        "ruleWeightCount": int,
        "userActivityAccountTotalUseCount": int,
        "strategyAwards": [{"awardId": int, "awardTitle": str}],
    }
]
SKUS = [{"sku": int, "productAmount": Real, "activityCount": {"dayCount": int}}]


def check(value: Any, shape: Any) -> None:
    """``value`` has at least the fields of ``shape``, each of exactly its type; bool is no number."""
    if isinstance(shape, list):
        assert isinstance(value, list)
        for item in value:
            check(item, shape[0])
    elif isinstance(shape, dict):
        assert isinstance(value, dict)
        for name, inner in shape.items():
            check(value[name], inner)
    else:
        assert isinstance(value, shape), (value, shape)
        assert shape is bool or not isinstance(value, bool), value


class FrontEnd:
    """The page of one user in one activity."""

    def __init__(self, url: str, user_id: str, activity_id: int) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1/raffle", timeout=10, headers={"origin": ORIGIN})
        self._asked: set[tuple[str, str]] = set()
        self.user_id, self.activity_id = user_id, activity_id
        self.alerts: list[str] = []

    def close(self) -> None:
        self._client.close()

    # --- what the page shows ---

    def load(self) -> None:
        """The first load: everything, the wheel and the grid each with its own call."""
        self.day_left()
        self.credits()
        self.signed()
        self.skus()
        assert len(self.awards()) >= 8, "the grid has eight fields"
        assert self.awards() == self.awards()
        self.tiers()

    def refresh(self) -> tuple[int, float, bool]:
        """Draws left today, credits, whether it is signed in."""
        return self.day_left(), self.credits(), self.signed()

    def day_left(self) -> int:
        data = self._json("activity/query_user_activity_account", self._who)
        check(data, {"dayCountSurplus": int})
        return int(data["dayCountSurplus"])

    def credits(self) -> float:
        data = self._form(f"activity/query_user_credit_account?userId={self.user_id}")
        check(data, Real)
        return float(data)

    def signed(self) -> bool:
        data = self._form(f"activity/is_calendar_sign_rebate?userId={self.user_id}")
        check(data, bool)
        return bool(data)

    def skus(self) -> list[dict[str, Any]]:
        data = self._form(f"activity/query_sku_product_list_by_activity_id?activityId={self.activity_id}")
        check(data, SKUS)
        return list(data)

    def awards(self) -> list[dict[str, Any]]:
        data = self._json("strategy/query_raffle_award_list", self._who)
        check(data, AWARDS)
        return list(data)

    def tiers(self) -> list[dict[str, Any]]:
        data = self._json("strategy/query_raffle_strategy_rule_weight", self._who)
        check(data, TIERS)
        return list(data)

    # --- what the user does ---

    def arm(self) -> None:
        """The button for operators."""
        assert self._call("GET", f"activity/armory?activityId={self.activity_id}", headers=JSON)["code"] == "0000"

    def sign_in(self) -> str:
        """The code; 0003 is fine with the page too."""
        path = f"activity/calendar_sign_rebate?userId={self.user_id}"
        answer = self._call("POST", path, headers=FORM)
        if answer["code"] not in ("0000", "0003"):
            self.alerts.append(answer["code"])
        return str(answer["code"])

    def exchange(self, sku: int) -> str:
        """The code."""
        answer = self._call("POST", "activity/credit_pay_exchange_sku", json={"userId": self.user_id, "sku": sku})
        if answer["code"] != "0000":
            self.alerts.append(answer["code"])
        return str(answer["code"])

    def spin(self) -> dict[str, Any] | str:
        """The sector that the wheel stops at, or the code of the alert."""
        answer = self._call("POST", "activity/draw", json=self._who)
        if answer["code"] != "0000":
            self.alerts.append(answer["code"])
            return str(answer["code"])
        check(answer["data"], {"awardIndex": int})
        sector = self.awards()[answer["data"]["awardIndex"] - 1]
        assert sector["awardId"] == answer["data"]["awardId"]
        return sector

    # --- how it is sent ---

    @property
    def _who(self) -> dict[str, object]:
        return {"userId": self.user_id, "activityId": self.activity_id}

    def _json(self, path: str, body: dict[str, object]) -> Any:
        return self._good(self._call("POST", path, json=body))

    def _form(self, path: str) -> Any:
        return self._good(self._call("POST", path, headers=FORM))

    @staticmethod
    def _good(answer: dict[str, Any]) -> Any:
        assert answer["code"] == "0000", answer
        return answer["data"]

    def _call(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        """One call as the browser makes it: preflight (once, browsers keep it), call, CORS header of the answer."""
        if "json" in sent:
            sent["headers"] = JSON
        asked = (method, path.partition("?")[0])
        if asked not in self._asked and sent["headers"] is JSON:
            self._asked.add(asked)
            preflight = self._client.options(
                asked[1],
                headers={"access-control-request-method": method, "access-control-request-headers": "content-type"},
            )
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] in ("*", ORIGIN)
            assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
            assert method in preflight.headers["access-control-allow-methods"]
        answer = self._client.request(method, path, **sent)
        assert answer.status_code == 200, answer.text
        assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN)
        envelope: dict[str, Any] = answer.json()
        assert set(envelope) == {"code", "info", "data"}
        assert isinstance(envelope["code"], str)
        assert isinstance(envelope["info"], str)
        return envelope
