"""Errors of the profile service."""

from common.errors import ConflictError, DomainError, NotFoundError


class ProfileNotFoundError(NotFoundError):
    """There is no such profile."""

    code = "PROFILE_NOT_FOUND"

    user_id: str | None = None
    profile_id: str | None = None


class ProfileAlreadyExistsError(ConflictError):
    """The user has a profile already."""

    code = "PROFILE_ALREADY_EXISTS"

    user_id: str | None = None
    existing_profile_id: str | None = None


class ProfileCreationFailedError(DomainError):
    """No profile can be made of what was given."""

    code = "PROFILE_CREATION_FAILED"
    status = 422

    user_id: str | None = None
    reason: str | None = None
