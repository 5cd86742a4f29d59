"""The people of the shop, their groups and the workspaces they use."""

from dataclasses import dataclass
from typing import Final

ORGANIZATION: Final = "Fernway Outfitters"
WORKSPACES: Final = ("storefront", "support-desk", "engineering")


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the platform; `workspace` None is a role in the whole organization."""

    email: str
    name: str
    role: str
    workspace: str | None


PEOPLE: Final = (
    Person("owner@fernway.example", "Shop owner", "owner", None),
    Person("platform@fernway.example", "Platform engineer", "admin", None),
    Person("developer@fernway.example", "Storefront developer", "developer", "storefront"),
    Person("agent@fernway.example", "Support agent", "developer", "support-desk"),
    Person("lead@fernway.example", "Support lead", "support", None),
    Person("payroll@fernway.example", "Payroll clerk", "developer", "support-desk"),
    Person("buyer@fernway.example", "Buyer", "viewer", "storefront"),
    Person("auditor@fernway.example", "Auditor", "auditor", None),
)

# group -> members; `group:` nests. All staff holds support, which holds the support leads: two levels.
GROUPS: Final = {
    "support-leads": ("user:lead@fernway.example",),
    "support": ("user:agent@fernway.example", "group:support-leads"),
    "payroll": ("user:payroll@fernway.example",),
    "purchasing": ("user:buyer@fernway.example",),
    "engineering": ("user:developer@fernway.example", "user:platform@fernway.example"),
    "all-staff": ("group:support", "group:engineering", "user:payroll@fernway.example", "user:buyer@fernway.example"),
}
