"""The whole contract suite."""

from common.db.core.testing._cancelling import CancellingContract
from common.db.core.testing._differential import DifferentialContract
from common.db.core.testing._hostile import HostileContract
from common.db.core.testing._paging import PagingContract
from common.db.core.testing._reading import ReadingContract
from common.db.core.testing._scoping import ScopingContract
from common.db.core.testing._transactions import TransactionContract
from common.db.core.testing._writing import WritingContract


class RepositoryContract(
    ReadingContract,
    PagingContract,
    WritingContract,
    ScopingContract,
    TransactionContract,
    CancellingContract,
    HostileContract,
    DifferentialContract,
):
    """Everything that a backend has to keep."""
