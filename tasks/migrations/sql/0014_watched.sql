-- What a person watches, by the creation of the tasks, which is the order of the task list: an index holds columns of one table. In
-- a table of its own, as the words of a task: a column of tasks_watcher would be a part of an audited row.
CREATE TABLE tasks_watched (
  task_id uuid NOT NULL, user_id bigint NOT NULL, task_created_at timestamptz NOT NULL, PRIMARY KEY (task_id, user_id));
CREATE INDEX tasks_watched_by ON tasks_watched (user_id, task_created_at, task_id);

-- The task is locked against a change of its time, which would not see the new row.
CREATE FUNCTION task_watched_keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM tasks_watched WHERE task_id = OLD.task_id AND user_id = OLD.user_id;
  ELSE
    INSERT INTO tasks_watched (task_id, user_id, task_created_at)
      SELECT NEW.task_id, NEW.user_id, created_at FROM tasks_task WHERE id = NEW.task_id FOR SHARE
      ON CONFLICT (task_id, user_id) DO NOTHING;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER taskpulse_6_watched AFTER INSERT OR DELETE ON tasks_watcher FOR EACH ROW EXECUTE FUNCTION task_watched_keep();
ALTER TABLE tasks_watcher ENABLE ALWAYS TRIGGER taskpulse_6_watched;

-- Nothing but SQL changes when a task was created.
CREATE FUNCTION task_watched_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE tasks_watched SET task_created_at = NEW.created_at WHERE task_id = NEW.id;
  RETURN NULL;
END $$;
CREATE TRIGGER taskpulse_6_watched AFTER UPDATE OF created_at ON tasks_task FOR EACH ROW
  WHEN (NEW.created_at IS DISTINCT FROM OLD.created_at) EXECUTE FUNCTION task_watched_move();
ALTER TABLE tasks_task ENABLE ALWAYS TRIGGER taskpulse_6_watched;

REVOKE EXECUTE ON FUNCTION task_watched_keep, task_watched_move FROM PUBLIC;
