"""The table of clients and upstreams in the documentation; `BERRY_UPDATE_DOCS=1` writes it anew."""

import os

from harness import matrix


def test_the_table_in_the_documentation_is_what_is_tested(record_property):
    record_property("clients and upstreams", "\n" + matrix.table())
    before, table, after = matrix.documented()
    if os.environ.get("BERRY_UPDATE_DOCS") == "1":
        matrix.DOCS.write_text(before + matrix.table() + after)
        return
    assert table == matrix.table()
