"""Tables are owned, isolated and explained; every named query is used."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "interlock"
MIGRATIONS = sorted((SOURCE / "migrations").glob("*.sql"))
TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)\s*\((.*?)\n\)", re.DOTALL)
OWNERS = {path.name for path in SOURCE.iterdir() if path.is_dir()} | {
    path.name for path in (SOURCE / "foundation").iterdir() if path.is_dir()
}


def tables():
    for path in MIGRATIONS:
        text = path.read_text()
        for match in TABLE.finditer(text):
            yield path, text, match.group(1), match.group(2)


def test_a_migration_says_why_and_in_which_phase():
    assert MIGRATIONS
    for path in MIGRATIONS:
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("-- why: "), path
        assert re.fullmatch(r"-- phase: (expand|migrate|contract)", second), path
        assert re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", path.name), path


def test_migrations_are_numbered_without_a_gap():
    numbers = [int(path.name[:4]) for path in MIGRATIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_table_is_named_after_its_owner():
    strays = [(path.name, table) for path, _, table, _ in tables() if table.split("_")[0] not in OWNERS]
    assert strays == []


def test_every_tenant_table_has_forced_row_level_security_in_the_file_that_makes_it():
    bare = []
    for path, text, table, columns in tables():
        if "organization_id" not in columns and "PARTITION OF" not in columns:
            continue
        wanted = (
            rf"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            rf"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            rf"CREATE POLICY \w+ ON {table}\b",
        )
        bare += [(path.name, table, line) for line in wanted if not re.search(line, text)]
    assert bare == []


def test_security_definer_is_banned():
    assert [
        path.name for path in MIGRATIONS if re.search(r"^(?!--).*SECURITY DEFINER", path.read_text(), re.MULTILINE)
    ] == []


def test_every_named_query_has_a_why_and_is_used():
    problems = []
    for path in SOURCE.rglob("queries.sql"):
        python = "\n".join(each.read_text() for each in path.parent.rglob("*.py"))
        for name, following in re.findall(r"^-- name: (\w+)\n(.*)$", path.read_text(), re.MULTILINE):
            if not following.startswith("-- why: "):
                problems.append(f"{path.parent.name}.{name} has no why")
            if not re.search(rf"\.{name}\b", python):
                problems.append(f"{path.parent.name}.{name} is not used")
    assert problems == []


def test_sql_lives_in_queries_and_migrations_only():
    """Start-up statements of the store itself are the one exception: they run before any query file is known."""
    statement = re.compile(r'"""?\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM)\s', re.IGNORECASE)
    strays = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if "foundation/store" not in str(path) and statement.search(path.read_text())
    ]
    assert strays == []
