-- What is true of tasks alone: labels, completed_at, one level of subtasks, and the document of the backstop's events.

-- What a person at psql may leave out.
ALTER TABLE tasks_task ALTER id SET DEFAULT uuidv7(), ALTER description SET DEFAULT '', ALTER priority SET DEFAULT 'medium',
  ALTER status SET DEFAULT 'pending', ALTER labels SET DEFAULT '{}';

-- The column's type, varchar(64)[], holds each label's length. No function: this runs with every write of a task.
ALTER TABLE tasks_task ADD CONSTRAINT task_labels CHECK (
  coalesce(array_ndims(labels), 1) = 1 AND cardinality(labels) <= 50
  AND array_position(labels, NULL) IS NULL AND '' <> ALL (labels));

-- The same document as Task.document(); the tests hold one against the other.
CREATE FUNCTION task_document(task tasks_task) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT jsonb_build_object(
    'assignee', (SELECT jsonb_build_object('id', u.id::text, 'name', u.username) FROM auth_user u WHERE u.id = task.assignee_id),
    'category', task.category,
    'completed_at', taskpulse_time(task.completed_at),
    'created_at', taskpulse_time(task.created_at),
    'created_by', (SELECT jsonb_build_object('id', u.id::text, 'name', u.username) FROM auth_user u WHERE u.id = task.created_by_id),
    'description', task.description,
    'due_at', taskpulse_time(task.due_at),
    'id', task.id,
    'labels', to_jsonb(task.labels),
    'parent', task.parent_id,
    'priority', task.priority,
    'status', task.status,
    'summary', task.summary,
    'title', task.title,
    'updated_at', taskpulse_time(task.updated_at),
    'version', task.version)
$$;

SELECT taskpulse_audit('tasks_task', 'task', 'task_document', 'id');

-- Runs after taskpulse_1_decide (triggers fire in the order of their names), so that a completion bears its version's time.
CREATE FUNCTION task_derive() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.created_at := coalesce(NEW.created_at, NEW.updated_at);
  END IF;
  IF TG_OP = 'INSERT' OR NEW.status IS DISTINCT FROM OLD.status THEN
    NEW.completed_at := CASE WHEN NEW.status = 'completed' THEN coalesce(NEW.completed_at, NEW.updated_at) END;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER taskpulse_2_derive BEFORE INSERT OR UPDATE ON tasks_task FOR EACH ROW EXECUTE FUNCTION task_derive();
ALTER TABLE tasks_task ENABLE ALWAYS TRIGGER taskpulse_2_derive;

-- One level of subtasks. The parent is locked, so that two transactions cannot each see half of a deeper tree.
CREATE FUNCTION task_check_parent() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  grandparent uuid;
BEGIN
  SELECT parent_id INTO grandparent FROM tasks_task WHERE id = NEW.parent_id FOR SHARE;
  IF grandparent IS NOT NULL OR EXISTS (SELECT FROM tasks_task WHERE parent_id = NEW.id) THEN
    RAISE EXCEPTION 'subtasks are one level deep' USING ERRCODE = 'check_violation', CONSTRAINT = 'task_parent_one_level';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER taskpulse_0_parent BEFORE INSERT OR UPDATE OF parent_id ON tasks_task
  FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION task_check_parent();
ALTER TABLE tasks_task ENABLE ALWAYS TRIGGER taskpulse_0_parent;

-- Raw SQL that deletes a parent deletes its subtasks, each with its event. The name of Django's key is found, not guessed.
DO $$
DECLARE
  key_name name;
BEGIN
  SELECT conname INTO STRICT key_name FROM pg_constraint
    WHERE conrelid = 'tasks_task'::regclass AND confrelid = 'tasks_task'::regclass AND contype = 'f';
  EXECUTE format('ALTER TABLE tasks_task DROP CONSTRAINT %I, ADD CONSTRAINT %I FOREIGN KEY (parent_id) REFERENCES tasks_task (id) '
                 'ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED', key_name, key_name);
END $$;
