"""What the state machine does with comments and watchers: one comment a slot, whose id comes back after a deletion."""

from tasks.models import Comment, Watcher

NAMES = (
    "say", "say_bulk", "say_upsert", "say_raw", "say_copy", "say_api", "edit", "edit_update", "edit_bulk", "edit_raw", "edit_api",
    "unsay", "unsay_query", "unsay_raw", "unsay_api", "watch", "watch_ignore", "watch_api", "unwatch", "unwatch_raw", "unwatch_api",
)  # fmt: skip


class AroundOperations:
    """Beside the operations on tasks: `key` is the task of the slot, `self.said[slot]` the comment's id."""

    def comment(self, slot, key, body) -> Comment:
        return Comment(id=self.said[slot], task_id=key, author_id=self.author, body=body)

    def say(self, slot, key, body):
        self.comment(slot, key, body).save(force_insert=True)

    def say_bulk(self, slot, key, body):
        Comment.objects.bulk_create([self.comment(slot, key, body), Comment(task_id=key, author_id=self.author, body=body)])

    def say_upsert(self, slot, key, body):
        rows, options = [self.comment(slot, key, body)], {"unique_fields": ["id"], "update_fields": ["body"]}
        Comment.objects.bulk_create(rows, update_conflicts=True, **options)

    def say_raw(self, slot, key, body):
        columns = "INSERT INTO tasks_comment (id, task_id, author_id, body)"
        self.sql(f"{columns} VALUES (%s, %s, %s, %s)", self.said[slot], key, self.author, body)

    def say_copy(self, slot, key, body):
        self.copy_row("COPY tasks_comment (task_id, author_id, body) FROM STDIN", (key, self.author, body))

    def say_api(self, slot, key, body):
        self.api("POST", f"/api/tasks/{key}/comments", {"body": body})

    def edit(self, slot, key, body):
        comment = Comment.objects.get(pk=self.said[slot])
        comment.body = body
        comment.save()

    def edit_update(self, slot, key, body):
        Comment.objects.filter(task_id=key).update(body=body)

    def edit_bulk(self, slot, key, body):
        comments = list(Comment.objects.filter(pk__in=self.said))
        for comment in comments[::2]:
            comment.body = body
        if comments:
            Comment.objects.bulk_update(comments, ["body"])

    def edit_raw(self, slot, key, body):
        self.sql("UPDATE tasks_comment SET body = left(body || %s, 200) WHERE id = ANY(%s)", body, self.said)

    def edit_api(self, slot, key, body):
        self.api("PATCH", f"/api/tasks/{key}/comments/{self.said[slot]}", {"body": body})

    def unsay(self, slot, key, body):
        Comment.objects.get(pk=self.said[slot]).delete()

    def unsay_query(self, slot, key, body):
        Comment.objects.filter(task_id=key).delete()

    def unsay_raw(self, slot, key, body):
        self.sql("DELETE FROM tasks_comment WHERE id = %s", self.said[slot])

    def unsay_api(self, slot, key, body):
        self.api("DELETE", f"/api/tasks/{key}/comments/{self.said[slot]}")

    def watch(self, slot, key, body):
        Watcher.objects.create(task_id=key, user_id=self.author)

    def watch_ignore(self, slot, key, body):
        Watcher.objects.bulk_create([Watcher(task_id=key, user_id=self.author)] * 2, ignore_conflicts=True)

    def watch_api(self, slot, key, body):
        self.api("PUT", f"/api/tasks/{key}/watchers/me")

    def unwatch(self, slot, key, body):
        Watcher.objects.get(task_id=key).delete()

    def unwatch_raw(self, slot, key, body):
        self.sql("DELETE FROM tasks_watcher WHERE task_id = %s", key)

    def unwatch_api(self, slot, key, body):
        self.api("DELETE", f"/api/tasks/{key}/watchers/{self.author}")
