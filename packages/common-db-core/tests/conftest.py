import pytest

pytest.register_assert_rewrite("common.db.core.testing")
