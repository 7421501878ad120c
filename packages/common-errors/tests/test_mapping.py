# Misuse on purpose, and JSON values without narrowing:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportFunctionMemberAccess=false, reportIndexIssue=false, reportMissingTypeArgument=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportUnusedClass=false

import asyncio
import concurrent.futures
import functools
import inspect
import traceback

import pytest

from common.errors import (
    AppError,
    ConflictError,
    DatabaseError,
    DomainError,
    InfrastructureError,
    InternalError,
    NotFoundError,
    RequestTimeoutError,
    map_errors,
    wrap,
)

MAPPED = map_errors({OSError: InfrastructureError, ConnectionError: DatabaseError})
UNTOUCHED = [
    AppError("x"),
    DomainError("x"),
    asyncio.CancelledError(),
    concurrent.futures.CancelledError(),
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
]


def test_wrap_keeps_the_chain_and_leaves_the_text_behind():
    def fail():
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("postgresql://u:secret@db") from inner

    with pytest.raises(ValueError) as caught:
        fail()
    error = wrap(caught.value, DatabaseError, "Not stored", table="orders")
    assert error.table == "orders"
    assert isinstance(error.__cause__, ValueError)
    assert isinstance(error.__cause__.__cause__, KeyError)
    assert error.__cause__.__traceback__ is not None
    assert "secret" not in str(error) + repr(error)


def test_wrap_without_a_message_uses_the_default_one():
    assert wrap(ValueError(), NotFoundError).message == "Not found"


def test_raising_a_wrapped_error_without_from_keeps_the_cause():
    def fail():
        try:
            raise KeyError
        except KeyError as error:
            raise wrap(error, NotFoundError)  # noqa: B904 - the point of the test

    with pytest.raises(NotFoundError) as caught:
        fail()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ConnectionResetError(), DatabaseError), (FileNotFoundError(), InfrastructureError)],
)
def test_the_most_specific_class_wins(raised, expected):
    with pytest.raises(expected) as caught, MAPPED:
        raise raised
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised


def test_the_order_of_the_mapping_does_not_matter():
    mapping = {ConnectionError: DatabaseError, OSError: InfrastructureError}
    for items in (mapping.items(), reversed(mapping.items())):
        with pytest.raises(DatabaseError), map_errors(dict(items)):
            raise ConnectionResetError


def test_what_is_not_mapped_goes_through_as_it_is():
    error = ValueError("x")
    with pytest.raises(ValueError) as caught, MAPPED:
        raise error
    assert caught.value is error


def test_the_default_takes_every_other_exception():
    with pytest.raises(InternalError), map_errors({OSError: DatabaseError}, default=InternalError):
        raise ValueError("x")


@pytest.mark.parametrize("error", UNTOUCHED, ids=repr)
@pytest.mark.parametrize("style", ["with", "async with", "function", "coroutine"])
def test_our_errors_and_cancellation_go_through_even_if_named(error, style):
    mapper = map_errors(
        {BaseException: ConflictError, AppError: ConflictError}, default=ConflictError
    )

    def plain():
        raise error

    async def coroutine():
        raise error

    async def scope():
        async with mapper:
            raise error

    def within():
        with mapper:
            raise error

    def drive(coro):
        coro.send(None)

    actions = {
        "with": within,
        "async with": lambda: drive(scope()),
        "function": mapper(plain),
        "coroutine": lambda: drive(mapper(coroutine)()),
    }
    with pytest.raises(type(error)) as caught:
        actions[style]()
    assert caught.value is error


@pytest.mark.parametrize("error", [StopIteration(1), StopAsyncIteration()])
def test_the_end_of_an_iteration_is_mapped_only_when_named(error):
    with pytest.raises(type(error)), map_errors({}, default=InternalError):
        raise error
    with pytest.raises(NotFoundError), map_errors({type(error): NotFoundError}):
        raise error


def test_a_function_makes_the_error_from_the_exception():
    def by_number(error: OSError):
        return NotFoundError(resource_id=error.errno) if error.errno == 2 else None

    with pytest.raises(NotFoundError) as caught, map_errors({OSError: by_number}):
        raise OSError(2, "No such file")
    assert caught.value.resource_id == 2
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(OSError, match="other"), map_errors({OSError: by_number}):
        raise OSError(5, "other")


def test_the_foreign_text_is_not_copied():
    with pytest.raises(DatabaseError) as caught, MAPPED:
        raise ConnectionResetError("postgresql://u:secret@db")
    assert "secret" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"OSError": DatabaseError},
        {int: DatabaseError},
        {OSError: ValueError},
        {OSError: "DatabaseError"},
        {OSError: None},
    ],
)
def test_a_wrong_mapping_fails_at_construction(wrong):
    with pytest.raises(TypeError, match="map_errors"):
        map_errors(wrong)
    with pytest.raises(TypeError, match="map_errors"):
        map_errors({}, default=ValueError)


async def test_as_async_context_manager_around_an_await():
    async def wait():
        async with map_errors({TimeoutError: RequestTimeoutError}), asyncio.timeout(0):
            await asyncio.sleep(10)

    with pytest.raises(RequestTimeoutError):
        await wait()


async def test_one_mapper_serves_nested_and_concurrent_use():
    async def fail():
        async with MAPPED, MAPPED:
            await asyncio.sleep(0)
            raise BrokenPipeError

    results = await asyncio.gather(*(fail() for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in results} == {DatabaseError}


# As a decorator


class Repository:
    @MAPPED
    def plain(self, fail: bool) -> str:
        """Return."""
        return step(fail)

    @MAPPED
    async def coroutine(self, fail: bool) -> str:
        await asyncio.sleep(0)
        return step(fail)

    @MAPPED
    def generator(self, fail: bool):
        received = yield "first"
        yield step(fail)
        return received

    @MAPPED
    async def async_generator(self, fail: bool):
        yield "first"
        await asyncio.sleep(0)
        yield step(fail)


def step(fail: bool) -> str:
    if fail:
        raise ConnectionResetError
    return "ok"


async def test_functions_and_coroutine_functions_keep_their_kind_and_name():
    repository = Repository()
    assert repository.plain(False) == "ok"
    assert await repository.coroutine(False) == "ok"
    assert inspect.iscoroutinefunction(Repository.coroutine)
    assert inspect.isgeneratorfunction(Repository.generator)
    assert inspect.isasyncgenfunction(Repository.async_generator)
    assert (Repository.plain.__name__, Repository.plain.__doc__) == ("plain", "Return.")
    with pytest.raises(DatabaseError):
        repository.plain(True)
    with pytest.raises(DatabaseError):
        await repository.coroutine(True)


async def test_a_function_that_hands_out_a_coroutine_is_mapped_too():
    class Callable:
        async def __call__(self):
            raise ConnectionResetError

    with pytest.raises(DatabaseError):
        await MAPPED(lambda: Repository.coroutine.__wrapped__(None, True))()
    with pytest.raises(DatabaseError):
        await MAPPED(functools.partial(Repository.coroutine.__wrapped__, None, True))()
    decorated = map_errors({OSError: DatabaseError})
    with pytest.raises(DatabaseError):
        await decorated(functools.wraps(Callable)(Callable()))()


def test_generators_pass_values_both_ways_and_map():
    generator = Repository().generator(False)
    assert next(generator) == "first"
    assert generator.send("sent") == "ok"
    with pytest.raises(StopIteration) as caught:
        next(generator)
    assert caught.value.value == "sent"
    with pytest.raises(DatabaseError):
        list(Repository().generator(True))
    failing = Repository().generator(False)
    next(failing)
    with pytest.raises(DatabaseError):
        failing.throw(BrokenPipeError())


async def test_async_generators_pass_values_both_ways_and_map():
    seen: list[object] = []

    @map_errors({OSError: DatabaseError}, default=InternalError)
    async def conversation():
        try:
            while True:
                try:
                    seen.append((yield len(seen)))
                except KeyError as error:
                    seen.append(error)
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    talk = conversation()
    assert await anext(talk) == 0
    assert await talk.asend("a") == 1
    thrown = KeyError("b")
    assert await talk.athrow(thrown) == 2
    with pytest.raises(DatabaseError):
        await talk.athrow(BrokenPipeError())
    assert seen == ["a", thrown, "closed"]

    seen.clear()
    talk = conversation()
    await anext(talk)
    await talk.aclose()
    assert seen == ["closed"]


async def test_async_generators_end_and_fail_as_they_are():
    assert [item async for item in Repository().async_generator(False)] == ["first", "ok"]
    with pytest.raises(DatabaseError):
        [item async for item in Repository().async_generator(True)]

    @map_errors({}, default=InternalError)
    async def empty():
        return
        yield

    assert [item async for item in empty()] == []


async def test_cancelling_a_decorated_coroutine_and_generator_stays_a_cancellation():
    closed = []

    @map_errors({}, default=InternalError)
    async def wait():
        await asyncio.Event().wait()

    @map_errors({}, default=InternalError)
    async def waits():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def consume():
        async for _ in waits():
            pass

    for action in (wait, consume):
        task = asyncio.create_task(action())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
    assert closed == [True]


# Exception groups


async def test_members_of_a_group_are_mapped_and_the_group_stays():
    async def fail(error):
        raise error

    ours, foreign = NotFoundError("x"), ConnectionResetError("secret")

    async def fail_together():
        async with MAPPED, asyncio.TaskGroup() as group:
            group.create_task(fail(ours))
            group.create_task(fail(foreign))

    with pytest.raises(ExceptionGroup) as caught:
        await fail_together()
    members = caught.value.exceptions
    assert [type(member) for member in members] == [NotFoundError, DatabaseError]
    assert members[0] is ours
    assert members[1].__cause__ is foreign


def test_nested_groups_keep_their_shape_notes_and_cause():
    inner = ExceptionGroup("inner", [OSError(), ValueError()])
    outer = ExceptionGroup("outer", [inner, ConnectionResetError()])
    outer.add_note("note")
    outer.__cause__ = cause = KeyError()
    with pytest.raises(ExceptionGroup) as caught, MAPPED:
        raise outer
    mapped = caught.value
    assert mapped is not outer
    assert (mapped.message, mapped.__notes__, mapped.__cause__) == ("outer", ["note"], cause)
    assert [type(member) for member in mapped.exceptions] == [ExceptionGroup, DatabaseError]
    assert [type(member) for member in mapped.exceptions[0].exceptions] == [
        InfrastructureError,
        ValueError,
    ]
    printed = "".join(traceback.format_exception(mapped))
    assert printed.count("outer (2 sub-exceptions)") == 1


def test_a_group_without_mapped_members_goes_through_as_it_is():
    error = ExceptionGroup("g", [ValueError(), NotFoundError("x")])
    with pytest.raises(ExceptionGroup) as caught, MAPPED:
        raise error
    assert caught.value is error


def test_cancellation_in_a_group_stays_in_place():
    cancelled = asyncio.CancelledError()
    error = BaseExceptionGroup("g", [cancelled, OSError()])
    with pytest.raises(BaseExceptionGroup) as caught, MAPPED:
        raise error
    assert caught.value.exceptions[0] is cancelled
    assert isinstance(caught.value.exceptions[1], InfrastructureError)


def test_a_mapping_that_names_the_group_makes_one_error_of_it():
    error = ExceptionGroup("g", [ValueError()])
    with pytest.raises(InternalError) as caught, map_errors({ExceptionGroup: InternalError}):
        raise error
    assert caught.value.__cause__ is error


def test_the_default_is_for_the_members_of_a_group_too():
    with (
        pytest.raises(ExceptionGroup) as caught,
        map_errors({Exception: ConflictError}, default=InternalError),
    ):
        raise ExceptionGroup("g", [ValueError()])
    assert isinstance(caught.value.exceptions[0], ConflictError)
