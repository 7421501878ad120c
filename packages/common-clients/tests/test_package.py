from importlib.metadata import version

import common.clients as package


def test_the_distribution_is_installed_and_exports_what_it_names():
    assert version("common-clients")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
