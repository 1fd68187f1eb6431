"""A few of the malformed configs and command lines of tests.faults.configs, always the same."""

import pytest
from helpers import run_script


@pytest.mark.parametrize(("commands", "count"), [("run", 160), ("branch", 40)])
def test_what_is_malformed_is_refused_in_one_message_and_nothing_is_written(commands, count):
    """In a process of its own, which keeps the data sets that it has loaded."""
    script = (
        "from tests.faults import configs\n"
        f"found = configs._worker({count}, 1, {commands!r})\n"
        "bad = [each for each in found if each.wrong not in ('', 'accepted')]\n"
        "assert not bad, bad\n"
        f"assert sum(each.wrong == '' for each in found) > {count} / 2\n"
    )
    run_script(script)
