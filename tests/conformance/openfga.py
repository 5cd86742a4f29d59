"""Relationship models of others (OpenFGA) as access lists of ours: groups, nesting, all-of, everyone.

Every `object#relation` that only unites becomes a group; one that intersects becomes clauses that must all hold. What
holds under a condition alone is nobody's, as it is there for a question that brings no context.
"""

import re
from itertools import product

TOKEN = re.compile(r"\[[^\]]*\]|[()]|[\w/]+")


def relations_of(model):
    """`{(type, relation): expression}` of a model in its language; an expression is nested lists."""
    found, kind = {}, None
    for raw in model.splitlines():
        # A sharp within a name is a userset, one that stands alone begins a comment.
        line = re.split(r"(?:^|\s)#", raw)[0].strip()
        if line.startswith("type "):
            kind = line.split()[1]
        elif line.startswith("define "):
            name, _, words = line.removeprefix("define ").partition(":")
            found[kind, name.strip()] = parsed(TOKEN.findall(words))
    return found


def parsed(tokens):
    """An expression: `["or"|"and", left, right, ..]`, `["direct"]`, `["rel", name]` or `["from", name, tupleset]`."""
    parts, joint = [operand(tokens)], None
    while tokens and tokens[0] != ")":
        joint = tokens.pop(0)
        if joint not in {"or", "and"}:
            raise ValueError(f"the word {joint}")
        parts.append(operand(tokens))
    return parts[0] if joint is None else [joint, *parts]


def operand(tokens):
    token = tokens.pop(0)
    if token == "(":
        inside = parsed(tokens)
        tokens.pop(0)
        return inside
    if token.startswith("["):
        return ["direct"]
    if tokens and tokens[0] == "from":
        tokens.pop(0)
        return ["from", token, tokens.pop(0)]
    return ["rel", token]


class Lists:
    """The access lists of one store: `clauses(object, relation)`, and in `members` the groups that they name."""

    def __init__(self, relations, tuples):
        self.relations, self.members = relations, {}
        self.tuples = {}
        for each in tuples:
            if "condition" not in each:
                self.tuples.setdefault((each["object"], each["relation"]), []).append(each["user"])

    def clauses(self, thing, relation, seen=()):
        """Return who has the relation as clauses of names; a group's name is `object#relation`."""
        if (thing, relation) in seen:
            return []
        expression = self.relations.get((thing.partition(":")[0], relation))
        if expression is None:
            return []
        found = self._said(expression, thing, relation, (*seen, (thing, relation)))
        if all(len(clause) == 1 and clause != ("everyone",) for clause in found) and not seen:
            return found
        if seen and found and all(len(clause) == 1 and clause != ("everyone",) for clause in found):
            name = f"{thing}#{relation}"
            self.members.setdefault(name, set()).update(clause[0] for clause in found)
            return [(name,)]
        return found

    def _said(self, expression, thing, relation, seen):
        kind, *rest = expression
        if kind == "direct":
            return [clause for user in self.tuples.get((thing, relation), ()) for clause in self._subject(user, seen)]
        if kind == "rel":
            return self.clauses(thing, rest[0], seen)
        if kind == "from":
            holders = self.tuples.get((thing, rest[1]), ())
            return [clause for user in holders for clause in self.clauses(user, rest[0], seen)]
        sides = [self._said(each, thing, relation, seen) for each in rest]
        if kind == "or":
            return list(dict.fromkeys(clause for side in sides for clause in side))
        return list(dict.fromkeys(tuple(sorted(set().union(*clauses))) for clauses in product(*sides)))

    def _subject(self, user, seen):
        name, _, relation = user.partition("#")
        if relation:
            return self.clauses(name, relation, seen)
        return [("everyone",)] if name.endswith(":*") else [(name,)]
