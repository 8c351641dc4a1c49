-- Which tasks bear a label, by their creation, which is the order of the task list: an index of the array has no order. And of a
-- label that its statistics have not met PostgreSQL takes one task in two hundred to bear it (DEFAULT_CONTAIN_SEL), so that it
-- looked through half a million tasks for one that forty bear. In a table of its own, as what somebody watches (0014).
CREATE TABLE tasks_labelled (
  task_id uuid NOT NULL, label text COLLATE "C" NOT NULL, task_created_at timestamptz NOT NULL, PRIMARY KEY (task_id, label));
CREATE INDEX tasks_labelled_by ON tasks_labelled (label, task_created_at, task_id);
-- Two rows of the same task have the same time: that it is equal tells PostgreSQL nothing which the task's id has not told, where
-- it would take both together for a thousand times as rare, and give up the order of the list.
ALTER TABLE tasks_labelled ALTER task_created_at SET (n_distinct = 1);
ALTER TABLE tasks_watched ALTER task_created_at SET (n_distinct = 1);

-- Only SQL makes a task bear a label twice, or begins an array elsewhere than at 1. Nothing is there that a new task could be in
-- conflict with (0017), and for the few labels that it bears a statement for each takes half of what one for all does.
CREATE FUNCTION task_labelled_keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    FOR n IN array_lower(NEW.labels, 1) .. array_upper(NEW.labels, 1) LOOP
      IF array_position(NEW.labels, NEW.labels[n]) = n THEN
        INSERT INTO tasks_labelled (task_id, label, task_created_at) VALUES (NEW.id, NEW.labels[n], NEW.created_at);
      END IF;
    END LOOP;
  ELSIF TG_OP = 'UPDATE' THEN
    DELETE FROM tasks_labelled WHERE task_id = NEW.id AND (label <> ALL (NEW.labels) OR task_created_at <> NEW.created_at);
    INSERT INTO tasks_labelled (task_id, label, task_created_at)
      SELECT NEW.id, label, NEW.created_at FROM unnest(NEW.labels) label ON CONFLICT (task_id, label) DO NOTHING;
  ELSE
    DELETE FROM tasks_labelled WHERE task_id = OLD.id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER taskpulse_6_labelled AFTER INSERT ON tasks_task FOR EACH ROW
  WHEN (NEW.labels <> '{}') EXECUTE FUNCTION task_labelled_keep();
CREATE TRIGGER taskpulse_6_labels_changed AFTER UPDATE OF labels, created_at ON tasks_task FOR EACH ROW
  WHEN (NEW.labels IS DISTINCT FROM OLD.labels OR NEW.created_at IS DISTINCT FROM OLD.created_at)
  EXECUTE FUNCTION task_labelled_keep();
CREATE TRIGGER taskpulse_6_labels_gone AFTER DELETE ON tasks_task FOR EACH ROW
  WHEN (OLD.labels <> '{}') EXECUTE FUNCTION task_labelled_keep();
ALTER TABLE tasks_task
  ENABLE ALWAYS TRIGGER taskpulse_6_labelled,
  ENABLE ALWAYS TRIGGER taskpulse_6_labels_changed,
  ENABLE ALWAYS TRIGGER taskpulse_6_labels_gone;

REVOKE EXECUTE ON FUNCTION task_labelled_keep FROM PUBLIC;
