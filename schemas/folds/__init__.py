"""The views: one module per noun, each the pure fold of stream families into documents."""

from __future__ import annotations

from schemas.folds import alerts, checkpoints, commands, jobs, plans, prep_nodes, sites, vms
from schemas.folds.base import View

VIEWS: tuple[View, ...] = (
    sites.VIEW,
    plans.VIEW,
    vms.VIEW,
    checkpoints.VIEW,
    checkpoints.MARKS,
    jobs.VIEW,
    jobs.REQUESTS,
    alerts.VIEW,
    commands.ACCEPTS,
    commands.SETTLEMENTS,
    prep_nodes.VIEW,
)
"""Every table of documents, in the order in which a batch writes them."""
