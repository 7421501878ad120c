"""The whole contract suite."""

from common.events.core.testing._browsing import BrowsingContract
from common.events.core.testing._cancelling import CancellingContract
from common.events.core.testing._consuming import ConsumingContract
from common.events.core.testing._declaring import DeclaringContract
from common.events.core.testing._ordering import OrderingContract
from common.events.core.testing._publishing import PublishingContract
from common.events.core.testing._redelivering import RedeliveringContract
from common.events.core.testing._surviving import SurvivingContract


class TransportContract(
    PublishingContract,
    ConsumingContract,
    RedeliveringContract,
    OrderingContract,
    DeclaringContract,
    BrowsingContract,
    CancellingContract,
    SurvivingContract,
):
    """Everything that a transport has to keep."""
