"""Errors of the analysis service."""

from common.errors import ConflictError, NotFoundError


class AnalysisInProgressError(ConflictError):
    """The user's previous analysis has not ended yet."""

    code = "ANALYSIS_IN_PROGRESS"
    default_message = "Another analysis is already in progress"

    current_analysis_id: str | None = None
    user_id: str | None = None
    started_at: str | None = None


class AnalysisNotFoundError(NotFoundError):
    """There is no such analysis."""

    code = "ANALYSIS_NOT_FOUND"

    analysis_id: str | None = None
    user_id: str | None = None


class AnalysisNotCancellableError(ConflictError):
    """The analysis cannot be stopped any more."""

    code = "ANALYSIS_NOT_CANCELLABLE"

    analysis_id: str | None = None
    current_status: str | None = None
    reason: str | None = None


class NoCurrentAnalysisError(NotFoundError):
    """The user has no completed analysis."""

    code = "NO_CURRENT_ANALYSIS"
    default_message = "No completed analysis available"

    user_id: str | None = None
