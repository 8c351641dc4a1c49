"""The peer: a small FastAPI + SQLAlchemy 2 (asyncpg) service that does the same durable work, as such services are written.

A task row and its outbox row in one transaction, on tables with TaskPulse's columns and indexes in the schema `peer`;
the same documents in and out; lists of 50 by keyset. It checks a token as TaskPulse does (its SHA-256 looked up, what was
found believed for a second), counts and times each request for Prometheus, and uvicorn writes its line in the log. It keeps
things simple where that makes it faster: no roles, no request context, no protection of the rows by triggers.
"""

import hashlib
import json
import os
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.orm.attributes import set_committed_value

from tasks.events import uuid7

SCHEMA = "peer"
PAGE = 50


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), list[str]: ARRAY(Text), bytes: LargeBinary}


class User(Base):
    __tablename__ = "user"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(150), unique=True)


class Token(Base):
    __tablename__ = "token"
    __table_args__ = {"schema": SCHEMA}

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))


class Task(Base):
    __tablename__ = "task"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(Text, default="")
    priority: Mapped[str] = mapped_column(String(6), default="medium")
    status: Mapped[str] = mapped_column(String(11), default="pending")
    category: Mapped[str | None] = mapped_column(String(64))
    summary: Mapped[str | None] = mapped_column(Text)
    labels: Mapped[list[str]] = mapped_column(default=list)
    assignee_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey(f"{SCHEMA}.task.id"))
    due_at: Mapped[datetime | None]
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(BigInteger, default=1)

    assignee: Mapped[User | None] = relationship(foreign_keys=[assignee_id], lazy="joined", viewonly=True)
    created_by: Mapped[User | None] = relationship(foreign_keys=[created_by_id], lazy="joined", viewonly=True)

    __mapper_args__ = {"version_id_col": version}
    __table_args__ = (
        CheckConstraint("priority IN ('low', 'medium', 'high')"),
        CheckConstraint("status IN ('pending', 'in_progress', 'completed')"),
        CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)"),
        Index("peer_task_status", status, id.desc()),
        Index("peer_task_priority", priority, id.desc()),
        Index("peer_task_assignee", assignee_id, id.desc()),
        Index("peer_task_created_by", created_by_id),
        Index("peer_task_parent", parent_id, postgresql_where=parent_id.is_not(None)),
        Index("peer_task_labels", labels, postgresql_using="gin"),
        {"schema": SCHEMA},
    )


class Outbox(Base):
    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    event_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    subject_type: Mapped[str] = mapped_column(Text)
    subject_id: Mapped[str] = mapped_column(Text)
    version: Mapped[int | None] = mapped_column(BigInteger)
    task_id: Mapped[uuid.UUID | None]
    payload: Mapped[bytes]
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        UniqueConstraint("subject_type", "subject_id", "version"),
        Index("peer_outbox_unpublished", id, postgresql_where=published_at.is_(None)),
        {"schema": SCHEMA},
    )


class Person(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str = Field(serialization_alias="name")


class TaskIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, max_length=255)
    description: str = Field("", max_length=20_000)
    priority: Literal["low", "medium", "high"] = "medium"
    status: Literal["pending", "in_progress", "completed"] = "pending"
    category: str | None = Field(None, max_length=64)
    summary: str | None = Field(None, max_length=2_000)
    labels: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field([], max_length=50)
    assignee_id: int | None = None
    parent_id: uuid.UUID | None = None
    due_at: datetime | None = None


class TaskChange(TaskIn):
    title: str | None = Field(None, min_length=1, max_length=255)


class TaskOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    title: str
    description: str
    priority: str
    status: str
    category: str | None
    summary: str | None
    labels: list[str]
    assignee: Person | None
    parent_id: uuid.UUID | None = Field(serialization_alias="parent")
    due_at: datetime | None
    created_by: Person | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    version: int


engine = create_async_engine(os.environ["PEER_DATABASE_URL"], pool_size=16, max_overflow=0)
new_session = async_sessionmaker(engine, expire_on_commit=False)
REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "path", "status"])
DURATION = Histogram("http_request_duration_seconds", "Seconds that it took", ["method", "path"])


@asynccontextmanager
async def lifespan(app):
    yield
    await engine.dispose()


class Metrics:
    """A plain ASGI middleware, the quicker kind."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = scope.get("route")
            path = route.path if route else "unmatched"
            REQUESTS.labels(scope["method"], path, status).inc()
            DURATION.labels(scope["method"], path).observe(time.perf_counter() - began)


app = FastAPI(lifespan=lifespan)
app.add_middleware(Metrics)


async def session_of_request():
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of_request)]
BELIEVED_SECONDS = 1
_found: dict[bytes, tuple[User, float]] = {}


async def user_of_token(session: Session, given: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> User:
    digest = hashlib.sha256(given.credentials.encode()).digest()
    user, until = _found.get(digest, (None, 0.0))
    if time.monotonic() < until:
        return user
    user = await session.scalar(select(User).join(Token).where(Token.digest == digest))
    if user is None:
        raise HTTPException(401)
    session.expunge(user)
    await session.rollback()  # the handler begins its own transaction
    _found[digest] = user, time.monotonic() + BELIEVED_SECONDS
    return user


Me = Annotated[User, Depends(user_of_token)]


async def person(session: AsyncSession, key: int | None) -> User | None:
    return None if key is None else await session.get(User, key)


def document(task: Task) -> dict:
    return TaskOut.model_validate(task).model_dump(mode="json", by_alias=True)


def event_of(me: User, task: Task, action: str, before: dict, after: dict) -> Outbox:
    changes = {name: {"from": before.get(name), "to": value} for name, value in after.items() if before.get(name) != value}
    event_id = uuid7()
    event = {
        "actorid": str(me.id), "actorname": me.username, "actortype": "user",
        "data": {"changes": changes, "nonce": os.urandom(16).hex(), "task": after},
        "datacontenttype": "application/json", "id": str(event_id), "sequence": f"{task.version:020d}", "source": "/peer/tasks",
        "specversion": "1.0", "subject": f"task/{task.id}", "time": task.updated_at.isoformat(), "type": f"task.{action}",
    }  # fmt: skip
    return Outbox(
        event_id=event_id, subject_type="task", subject_id=str(task.id), version=task.version, task_id=task.id,
        payload=json.dumps(event, separators=(",", ":"), sort_keys=True).encode(), created_at=task.updated_at,
    )  # fmt: skip


@app.post("/api/tasks", status_code=201, response_model=TaskOut)
async def create(body: TaskIn, session: Session, me: Me, response: Response):
    now = datetime.now(UTC)
    async with session.begin():
        task = Task(id=uuid7(), **body.model_dump(), created_by_id=me.id, created_at=now, updated_at=now, version=1)
        task.completed_at = now if task.status == "completed" else None
        set_committed_value(task, "created_by", me)
        set_committed_value(task, "assignee", await person(session, task.assignee_id))
        session.add(task)
        session.add(event_of(me, task, "created", {}, document(task)))
    response.headers["Location"] = f"/api/tasks/{task.id}"
    return task


@app.patch("/api/tasks/{task_id}", response_model=TaskOut)
async def change(task_id: uuid.UUID, body: TaskChange, session: Session, me: Me):
    async with session.begin():
        task = await session.get(Task, task_id, with_for_update={"of": Task})
        if task is None:
            raise HTTPException(404)
        before = document(task)
        for name, value in body.model_dump(exclude_unset=True).items():
            setattr(task, name, value)
        if session.is_modified(task):
            task.updated_at = datetime.now(UTC)
            if task.status != before["status"]:
                task.completed_at = task.updated_at if task.status == "completed" else None
            if "assignee_id" in body.model_fields_set:
                set_committed_value(task, "assignee", await person(session, task.assignee_id))
            await session.flush()
            session.add(event_of(me, task, "updated", before, document(task)))
    return task


@app.get("/api/tasks", response_model=list[TaskOut])
async def page(
    session: Session, me: Me, response: Response, status: str | None = None, before: Annotated[uuid.UUID | None, Query()] = None
):
    query = select(Task).order_by(Task.id.desc()).limit(PAGE)
    if status is not None:
        query = query.where(Task.status == status)
    if before is not None:
        query = query.where(Task.id < before)
    tasks = (await session.scalars(query)).all()
    if len(tasks) == PAGE:
        response.headers["Link"] = f'</api/tasks?before={tasks[-1].id}>; rel="next"'
    return tasks


@app.get("/api/tasks/{task_id}", response_model=TaskOut)
async def read(task_id: uuid.UUID, session: Session, me: Me):
    task = await session.get(Task, task_id)
    if task is None:
        raise HTTPException(404)
    return task
