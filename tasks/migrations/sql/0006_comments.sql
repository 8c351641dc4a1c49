-- Comments and watchers: what belongs to a task, each row a subject of its own.

-- What a person at psql may leave out.
ALTER TABLE tasks_comment ALTER id SET DEFAULT uuidv7();
ALTER TABLE tasks_watcher ALTER id SET DEFAULT uuidv7();

-- They go with their task, whoever deletes it, each with its event. Checked at once, so that a comment on a task that is gone is
-- refused where it is made.
ALTER TABLE tasks_comment ADD CONSTRAINT comment_task FOREIGN KEY (task_id) REFERENCES tasks_task (id) ON DELETE CASCADE;
ALTER TABLE tasks_watcher ADD CONSTRAINT watcher_task FOREIGN KEY (task_id) REFERENCES tasks_task (id) ON DELETE CASCADE;

-- The same documents as Comment.document() and Watcher.document(); the tests hold one against the other.
CREATE FUNCTION comment_document(comment tasks_comment) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT jsonb_build_object(
    'author', (SELECT jsonb_build_object('id', u.id::text, 'name', u.username) FROM auth_user u WHERE u.id = comment.author_id),
    'body', comment.body,
    'created_at', taskpulse_time(comment.created_at),
    'id', comment.id,
    'task', comment.task_id,
    'updated_at', taskpulse_time(comment.updated_at),
    'version', comment.version)
$$;

CREATE FUNCTION watcher_document(watcher tasks_watcher) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT jsonb_build_object(
    'created_at', taskpulse_time(watcher.created_at),
    'id', watcher.id,
    'task', watcher.task_id,
    'updated_at', taskpulse_time(watcher.updated_at),
    'user', (SELECT jsonb_build_object('id', u.id::text, 'name', u.username) FROM auth_user u WHERE u.id = watcher.user_id),
    'version', watcher.version)
$$;

-- Whether a document tells of this row, the names of people aside (as task_agrees; inlined, so without SET).
CREATE FUNCTION comment_agrees(comment tasks_comment, document jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT document ->> 'id' = comment.id::text
    AND document ->> 'version' = comment.version::text
    AND document ->> 'task' = comment.task_id::text
    AND document ->> 'body' = comment.body
    AND document #>> '{author,id}' = comment.author_id::text
    AND (document ->> 'created_at')::timestamptz IS NOT DISTINCT FROM comment.created_at
    AND (document ->> 'updated_at')::timestamptz IS NOT DISTINCT FROM comment.updated_at
$$;

CREATE FUNCTION watcher_agrees(watcher tasks_watcher, document jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT document ->> 'id' = watcher.id::text
    AND document ->> 'version' = watcher.version::text
    AND document ->> 'task' = watcher.task_id::text
    AND document #>> '{user,id}' = watcher.user_id::text
    AND (document ->> 'created_at')::timestamptz IS NOT DISTINCT FROM watcher.created_at
    AND (document ->> 'updated_at')::timestamptz IS NOT DISTINCT FROM watcher.updated_at
$$;

SELECT taskpulse_audit('tasks_comment', 'comment', 'comment_document', 'task_id');
SELECT taskpulse_audit('tasks_watcher', 'watcher', 'watcher_document', 'task_id');

-- Runs after taskpulse_1_decide (triggers fire in the order of their names), so that the first version bears its own time.
CREATE FUNCTION taskpulse_derive_created() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.created_at := coalesce(NEW.created_at, NEW.updated_at);
  RETURN NEW;
END $$;
CREATE TRIGGER taskpulse_2_derive BEFORE INSERT ON tasks_comment FOR EACH ROW EXECUTE FUNCTION taskpulse_derive_created();
CREATE TRIGGER taskpulse_2_derive BEFORE INSERT ON tasks_watcher FOR EACH ROW EXECUTE FUNCTION taskpulse_derive_created();
ALTER TABLE tasks_comment ENABLE ALWAYS TRIGGER taskpulse_2_derive;
ALTER TABLE tasks_watcher ENABLE ALWAYS TRIGGER taskpulse_2_derive;

-- The task is the Kafka key, and what the history is grouped by: a subject that went over to another would leave a gap in both.
CREATE TRIGGER taskpulse_0_fixed BEFORE UPDATE ON tasks_comment FOR EACH ROW
  WHEN ((NEW.task_id, NEW.author_id, NEW.created_at) IS DISTINCT FROM (OLD.task_id, OLD.author_id, OLD.created_at))
  EXECUTE FUNCTION taskpulse_refuse('a comment keeps its task, its author and its time; its body alone is changed');
CREATE TRIGGER taskpulse_0_fixed BEFORE UPDATE ON tasks_watcher FOR EACH ROW
  WHEN ((NEW.task_id, NEW.user_id, NEW.created_at) IS DISTINCT FROM (OLD.task_id, OLD.user_id, OLD.created_at))
  EXECUTE FUNCTION taskpulse_refuse('a watcher is made and deleted, never changed');
ALTER TABLE tasks_comment ENABLE ALWAYS TRIGGER taskpulse_0_fixed;
ALTER TABLE tasks_watcher ENABLE ALWAYS TRIGGER taskpulse_0_fixed;

-- Trigger functions and those of the capture are for nobody to call (0003); taskpulse/database_roles.py grants what is needed.
REVOKE EXECUTE ON FUNCTION comment_document(tasks_comment), watcher_document(tasks_watcher), taskpulse_derive_created(),
  comment_agrees(tasks_comment, jsonb), watcher_agrees(tasks_watcher, jsonb) FROM PUBLIC;
