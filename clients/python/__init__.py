"""The typed Python client of Card Recycling.

    async with RecyclingClient("127.0.0.1:50051") as client:
        request = RecycleRequest(
            account_id="a-1", card_id=card_id, reason=RECYCLE_REASON_VOLUNTARY, device=Device(device_id=device_id)
        )
        answer = await client.recycle(request)

The messages are those of `card_recycling.v1`.
"""

from clients.python.client import CallOptions, RecyclingClient
from clients.python.errors import FieldViolation, RecyclingError, Retries

__all__ = ["CallOptions", "FieldViolation", "RecyclingClient", "RecyclingError", "Retries"]
