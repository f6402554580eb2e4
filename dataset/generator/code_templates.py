"""Building blocks of the curriculum's source files: functions, and the edits that their history consists of.

Placeholders are ``<name>``: braces belong to the languages. An edit replaces one exact piece of its function, so every
diff made from it applies.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One change of a function: what it replaces, how a commit explains it and what a reviewer says who wants it."""

    old: str
    new: str
    subject: str
    body: str
    review: str


@dataclass(frozen=True)
class Function:
    """A function of one language with the edits that it may receive (each applies on its own and after the other)."""

    text: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Language:
    name: str
    path: str
    comment: str
    head: str  # what stands above the functions
    functions: tuple[Function, ...]


# (entity, its plural, a number field, a text field, package)
ENTITIES: tuple[tuple[str, str, str, str, str], ...] = (
    ("order", "orders", "amount", "customer", "shop"), ("invoice", "invoices", "total", "payer", "billing"),
    ("parcel", "parcels", "weight", "address", "post"), ("sensor", "sensors", "reading", "label", "station"),
    ("ticket", "tickets", "priority", "title", "support"), ("book", "books", "pages", "author", "library"),
    ("recipe", "recipes", "minutes", "cook", "kitchen"), ("player", "players", "score", "nickname", "game"),
    ("route", "routes", "distance", "origin", "travel"), ("lesson", "lessons", "duration", "teacher", "school"),
    ("plant", "plants", "height", "species", "garden"), ("vote", "votes", "count", "candidate", "election"),
    ("song", "songs", "seconds", "artist", "radio"), ("room", "rooms", "seats", "floor", "hotel"),
    ("train", "trains", "delay", "platform", "railway"), ("field", "fields", "area", "crop", "farm"),
    ("ship", "ships", "cargo", "captain", "harbour"), ("task", "tasks", "effort", "owner", "planner"),
)  # fmt: skip

_PYTHON = Language(
    "python",
    "src/<package>/<entities>_<role>.py",
    "#",
    '''"""<Role> of <entities> for the <package>."""

from __future__ import annotations

from dataclasses import dataclass

<LIMIT> = <number>


@dataclass
class <Entity>:
    """One <entity> of the <package>."""

    name: str
    <count>: int
    <label>: str
''',
    (
        Function(
            '''def total_<count>(<entities>: list[<Entity>]) -> int:
    """Return the sum of all values of <count>."""
    total = 0
    for <entity> in <entities>:
        total += <entity>.<count>
    return total
''',
            (
                Edit(
                    "    total = 0\n    for <entity> in <entities>:\n        total += <entity>.<count>\n    return total",
                    "    return sum(<entity>.<count> for <entity> in <entities>)",
                    "Sum <count> in one expression",
                    "The loop did by hand what sum() does. No change in behaviour.",
                    "Could this loop be a call of sum()?",
                ),
                Edit(
                    '"""Return the sum of all values of <count>."""',
                    '"""Return the sum of all values of <count>; 0 when there are no <entities>."""',
                    "Say what total_<count> returns for an empty list",
                    "Callers asked whether an empty list is allowed. It is.",
                    "What comes out for an empty list? The docstring should say.",
                ),
            ),
        ),
        Function(
            '''def average_<count>(<entities>: list[<Entity>]) -> float:
    """Return the mean of <count>."""
    total = sum(<entity>.<count> for <entity> in <entities>)
    return total / len(<entities>)
''',
            (
                Edit(
                    '    """Return the mean of <count>."""\n',
                    '    """Return the mean of <count>."""\n    if not <entities>:\n        return 0.0\n',
                    "Do not divide by zero without <entities>",
                    "average_<count>([]) raised ZeroDivisionError. It is 0.0 now.",
                    "This divides by zero when the list is empty.",
                ),
                Edit(
                    "return total / len(<entities>)",
                    "return round(total / len(<entities>), 2)",
                    "Round the mean of <count> to two digits",
                    "The report printed up to fifteen digits.",
                    "Please round here, the report shows every digit.",
                ),
            ),
        ),
        Function(
            '''def find_<entity>(<entities>: list[<Entity>], name: str) -> <Entity> | None:
    """Return the <entity> called `name`, or None."""
    for <entity> in <entities>:
        if <entity>.name == name:
            return <entity>
    return None
''',
            (
                Edit(
                    "        if <entity>.name == name:",
                    "        if <entity>.name.lower() == name.lower():",
                    "Find a <entity> in any case",
                    "Names are typed by people; upper and lower case should not matter.",
                    "Should this not ignore upper and lower case?",
                ),
                Edit(
                    '"""Return the <entity> called `name`, or None."""',
                    '"""Return the first <entity> called `name`, or None."""',
                    "Say which <entity> is found when names repeat",
                    "Two <entities> may share a name. The first one wins, and the docstring now says so.",
                    "Names can repeat. Which one is returned?",
                ),
            ),
        ),
        Function(
            '''def is_large(<entity>: <Entity>) -> bool:
    """Tell whether <count> is above the limit."""
    if <entity>.<count> > <LIMIT>:
        return True
    else:
        return False
''',
            (
                Edit(
                    "    if <entity>.<count> > <LIMIT>:\n        return True\n    else:\n        return False",
                    "    return <entity>.<count> > <LIMIT>",
                    "Return the comparison itself",
                    "The branches only repeated its value.",
                    "The condition is the result already.",
                ),
                Edit(
                    '"""Tell whether <count> is above the limit."""',
                    '"""Tell whether <count> is above the limit; the limit itself is not."""',
                    "State that the limit is exclusive",
                    "It was read both ways in the discussion of the last release.",
                    "Is the limit included? Please write it down.",
                ),
            ),
        ),
        Function(
            '''def group_by_<label>(<entities>: list[<Entity>]) -> dict[str, list[<Entity>]]:
    """Collect the <entities> of each <label>."""
    groups: dict[str, list[<Entity>]] = {}
    for <entity> in <entities>:
        if <entity>.<label> not in groups:
            groups[<entity>.<label>] = []
        groups[<entity>.<label>].append(<entity>)
    return groups
''',
            (
                Edit(
                    "        if <entity>.<label> not in groups:\n            groups[<entity>.<label>] = []\n"
                    "        groups[<entity>.<label>].append(<entity>)",
                    "        groups.setdefault(<entity>.<label>, []).append(<entity>)",
                    "Group <entities> with setdefault",
                    "One look-up in place of three.",
                    "setdefault would save two look-ups here.",
                ),
                Edit(
                    "    return groups",
                    "    return dict(sorted(groups.items()))",
                    "Return the groups of <entities> in a fixed order",
                    "The order followed the input, which made the report change from day to day.",
                    "The order of the groups depends on the input. Can we sort them?",
                ),
            ),
        ),
        Function(
            '''def describe(<entity>: <Entity>) -> str:
    """Return one line about a <entity>."""
    return <entity>.name + ": " + str(<entity>.<count>) + " (" + <entity>.<label> + ")"
''',
            (
                Edit(
                    '<entity>.name + ": " + str(<entity>.<count>) + " (" + <entity>.<label> + ")"',
                    'f"{<entity>.name}: {<entity>.<count>} ({<entity>.<label>})"',
                    "Describe a <entity> with an f-string",
                    "Easier to read; the text is the same.",
                    "An f-string would be easier to read.",
                ),
                Edit(
                    '"""Return one line about a <entity>."""',
                    '"""Return one line about a <entity>: its name, <count> and <label>."""',
                    "Name the parts of the description",
                    "The log parser relies on them.",
                    "The docstring should name the three parts.",
                ),
            ),
        ),
    ),
)

_JAVASCRIPT = Language(
    "javascript",
    "web/<package>/<entities>.js",
    "//",
    """// <Role> of <entities>, shown on the page of the <package>.

const <LIMIT> = <number>;
""",
    (
        Function(
            """/** Returns the <entities> above the limit. */
export function large<Entities>(<entities>) {
  const result = [];
  for (const <entity> of <entities>) {
    if (<entity>.<count> > <LIMIT>) {
      result.push(<entity>);
    }
  }
  return result;
}
""",
            (
                Edit(
                    "  const result = [];\n  for (const <entity> of <entities>) {\n"
                    "    if (<entity>.<count> > <LIMIT>) {\n      result.push(<entity>);\n    }\n  }\n  return result;",
                    "  return <entities>.filter((<entity>) => <entity>.<count> > <LIMIT>);",
                    "Select large <entities> with filter",
                    "The same in one line.",
                    "This is what filter() is for.",
                ),
                Edit(
                    "/** Returns the <entities> above the limit. */",
                    "/** Returns the <entities> above the limit, in the order given. */",
                    "Document the order of large <entities>",
                    "The table relies on it.",
                    "Is the order kept? The table needs it.",
                ),
            ),
        ),
        Function(
            """/** Returns the text of one row of the table. */
export function row(<entity>) {
  return <entity>.name + " | " + <entity>.<count> + " | " + <entity>.<label>;
}
""",
            (
                Edit(
                    '<entity>.name + " | " + <entity>.<count> + " | " + <entity>.<label>',
                    "`${<entity>.name} | ${<entity>.<count>} | ${<entity>.<label>}`",
                    "Build the row of a <entity> with a template string",
                    "The text is the same.",
                    "A template string would be easier to read.",
                ),
                Edit(
                    "export function row(<entity>) {\n",
                    'export function row(<entity>) {\n  if (!<entity>) return "";\n',
                    "Show an empty row when there is no <entity>",
                    "The page broke while the <entities> were still being loaded.",
                    "What if <entity> is undefined while the page loads?",
                ),
            ),
        ),
        Function(
            """/** Sorts the <entities> by <count>. */
export function sortBy<Count>(<entities>) {
  return <entities>.sort((a, b) => a.<count> - b.<count>);
}
""",
            (
                Edit(
                    "return <entities>.sort(",
                    "return [...<entities>].sort(",
                    "Do not sort the caller's <entities> in place",
                    "The list on the left changed its order when the right one was sorted.",
                    "sort() changes the array of the caller.",
                ),
                Edit(
                    "/** Sorts the <entities> by <count>. */",
                    "/** Returns the <entities> sorted by <count>, smallest first. */",
                    "State the order of sortBy<Count>",
                    "It was not clear from the name.",
                    "Smallest first or largest first?",
                ),
            ),
        ),
    ),
)

_SQL = Language(
    "sql",
    "db/<package>/<entities>.sql",
    "--",
    """-- <Role> of <entities> in the database of the <package>.

CREATE TABLE <entities> (
    name TEXT NOT NULL,
    <count> INTEGER NOT NULL,
    <label> TEXT
);
""",
    (
        Function(
            """-- The <entities> above the limit.
SELECT name, <count>
FROM <entities>
WHERE <count> > <number>;
""",
            (
                Edit(
                    "WHERE <count> > <number>;",
                    "WHERE <count> > <number>\nORDER BY <count> DESC;",
                    "Order the <entities> above the limit",
                    "Without an order the page numbers of the report were not stable.",
                    "Without ORDER BY the result may come in any order.",
                ),
                Edit(
                    "SELECT name, <count>\n",
                    "SELECT name, <count>, <label>\n",
                    "Select the <label> of large <entities> too",
                    "The report shows it in a column of its own.",
                    "The report needs <label> as well.",
                ),
            ),
        ),
        Function(
            """-- The sum of <count> for each <label>.
SELECT <label>, SUM(<count>)
FROM <entities>
GROUP BY <label>;
""",
            (
                Edit(
                    "SUM(<count>)\n",
                    "SUM(<count>) AS total_<count>\n",
                    "Give the sum of <count> a name",
                    "Clients had to refer to the column by its number.",
                    "Please name this column.",
                ),
                Edit(
                    "GROUP BY <label>;",
                    "WHERE <label> IS NOT NULL\nGROUP BY <label>;",
                    "Leave out <entities> without <label>",
                    "They formed a group of their own without a name.",
                    "Rows without <label> should not form a group.",
                ),
            ),
        ),
    ),
)

# Mostly Python, a bit of the others.
LANGUAGES: tuple[tuple[Language, float], ...] = ((_PYTHON, 0.7), (_JAVASCRIPT, 0.2), (_SQL, 0.1))
ROLES: tuple[str, ...] = ("report", "store", "tools", "import", "export", "check", "summary", "archive")
