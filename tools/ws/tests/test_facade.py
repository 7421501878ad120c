import pytest
from ws._facade import facades

FACADE = "packages/common-zoo/src/common/zoo/__init__.py"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('__all__ = ["b", "a"]\na = b = 1', 'write "a", "b"'),
        ('__all__ = ["a"]\nfrom common.zoo._x import a, b', "b not in __all__"),
        ('__all__ = ["a"]\ndef a(): ...\nasync def b(): ...\nclass C: ...', "C, b not in __all__"),
        ('__all__ = ["a", "b"]\na: int = 1', "__all__ has b, which it does not define"),
        ('__all__ = ["a", "a"]\na = 1', "__all__ has a more than once"),
        ("x = 1", "has no __all__"),
        ('__all__ = ["a"]\na = 1\n__all__ += ["b"]', "__all__ is changed on line 3"),
        ('__all__ = ["a"]\na = 1\n__all__ = __all__ + []', "__all__ is changed on line 3"),
        ('__all__ = ["a"]\na = 1\nif a:\n    __all__.append("b")', "changed on line 4"),
        ("__all__ = [name for name in dir()]", "has no __all__"),
        ("def broken(:", "line 1"),
        (
            '__all__ = [\n    # one\n    "d",\n    "c",\n    # two\n    "a",\n]\na = c = d = 1',
            '"c", "d"',
        ),
    ],
)
def test_a_facade_lists_its_public_names_in_order(scratch, complaints, text, problem):
    scratch.write(FACADE, text)
    (found,) = complaints(facades)
    assert problem in found
    assert "common-zoo: src/common/zoo/__init__.py" in found


@pytest.mark.parametrize(
    "text",
    [
        '__all__ = [\n    # one\n    "d",\n    # two\n    "a",\n    "c",\n]\na = c = d = 1',
        '__all__ = ["A", "b"]\nimport asyncio\nfrom typing import Any\nA = b = _c = 1',
        # A lazy name, known to type checkers only.
        (
            '__all__ = ["a"]\nfrom typing import TYPE_CHECKING\n'
            "if TYPE_CHECKING:\n    from common.zoo._x import a\ndef __getattr__(name): ..."
        ),
        '__all__ = ["a"]\ntry:\n    from common.zoo._x import a\nexcept ImportError:\n    a = None',
        '__all__ = ["a"]\na = 1\ndef __dir__(): return list(__all__)',
        "__all__: list[str] = []\nfrom common.zoo._x import a as _a",
    ],
)
def test_a_facade_in_order_is_left_alone(scratch, complaints, text):
    scratch.write(FACADE, text)
    assert complaints(facades) == []


def test_other_modules_are_checked_if_they_have_the_list(scratch, complaints):
    folder = "packages/common-zoo/src/common/zoo/"
    scratch.write(folder + "_x.py", "def a(): ...")
    scratch.write(folder + "y.py", "__all__ = []\nfrom common.zoo._x import a\ndef b(): ...")
    (found,) = complaints(facades)
    assert "src/common/zoo/y.py: b not in __all__" in found
