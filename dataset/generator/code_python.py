"""Python functions of the curriculum's source files, with the edits that each may receive."""

from __future__ import annotations

from generator.code_types import Edit, Function, Language

PYTHON = Language(
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
                    "    total = 0\n    for <entity> in <entities>:\n"
                    "        total += <entity>.<count>\n    return total",
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
