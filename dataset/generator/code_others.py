"""JavaScript and SQL pieces of the curriculum's source files, with the edits that each may receive."""

from __future__ import annotations

from generator.code_types import Edit, Function, Language

JAVASCRIPT = Language(
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
        Function(
            """/** Adds a <entity> and tells the listeners. */
export function add<Entity>(<entities>, <entity>, listeners) {
  <entities>.push(<entity>);
  for (const listener of listeners) {
    listener(<entity>);
  }
}
""",
            (
                Edit(
                    "  for (const listener of listeners) {\n    listener(<entity>);\n  }",
                    "  listeners.forEach((listener) => listener(<entity>));",
                    "Call the listeners of <entities> with forEach",
                    "The same in one line.",
                    "forEach would do here.",
                ),
                Edit(
                    "<entities>, <entity>, listeners) {",
                    "<entities>, <entity>, listeners = []) {",
                    "Let a <entity> be added without listeners",
                    "The tests had to pass an empty list.",
                    "Could the listeners be optional?",
                ),
            ),
        ),
    ),
)

SQL = Language(
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
        Function(
            """-- Adds one <entity>; a second one of the same name is not an error.
INSERT INTO <entities> (name, <count>, <label>)
VALUES (:name, :<count>, :<label>);
""",
            (
                Edit(
                    "VALUES (:name, :<count>, :<label>);",
                    "VALUES (TRIM(:name), :<count>, :<label>);",
                    "Trim the name of a new <entity>",
                    "Some clients send it with spaces at the end.",
                    "Names arrive with spaces at the end. Trim them here?",
                ),
                Edit(
                    "-- Adds one <entity>; a second one of the same name is not an error.",
                    "-- Adds one <entity>. Names may repeat: the row number tells two <entities> apart.",
                    "Explain why names of <entities> may repeat",
                    "It looked like an oversight.",
                    "Why is a repeated name not an error? Please say so.",
                ),
            ),
        ),
    ),
)
