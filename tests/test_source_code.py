"""The code of a module without what does not run."""

import pytest

from gencausal.source_code import bare

CODE = '"""Words."""\n\n\ndef f(x):\n    """Double."""\n    return 2 * x  # twice\n'


@pytest.mark.parametrize(("text", "same"), [
    (CODE, True),
    (CODE.replace("Words", "Other words"), True),
    (CODE.replace("# twice", ""), True),
    (CODE.replace('    """Double."""\n', ""), True),
    (CODE.replace("2 * x", "x * 2"), False),
    (CODE.replace("def f", "def g"), False),
    (CODE + 'X = "text"\n', False),
])
def test_words_do_not_count_and_code_does(tmp_path, text, same):
    (tmp_path / "a.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "b.py").write_text(text, encoding="utf-8")
    assert (bare(tmp_path / "a.py") == bare(tmp_path / "b.py")) is same
