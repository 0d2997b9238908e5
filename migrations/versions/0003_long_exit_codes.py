"""Exit codes have 64 bits: those of Windows are numbers of 32 bits without a sign."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _alter(sa.BigInteger())


def downgrade() -> None:
    # What the old type does not hold is best said by the code for "no code".
    for table in ("job", "run"):
        op.execute(f"UPDATE {table} SET exit_code = NULL WHERE exit_code NOT BETWEEN -2147483648 AND 2147483647")  # noqa: S608 - our own names
    _alter(sa.Integer())


def _alter(kind: sa.types.TypeEngine[int]) -> None:
    if op.get_bind().dialect.name != "sqlite":  # there an INTEGER has 64 bits
        for table in ("job", "run"):
            op.alter_column(table, "exit_code", type_=kind, existing_nullable=True)
