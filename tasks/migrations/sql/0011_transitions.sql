-- What is completed is reopened as in progress (tasks/transitions.py), and completed_at changes with the status alone.
CREATE OR REPLACE FUNCTION task_derive() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.created_at := coalesce(NEW.created_at, NEW.updated_at);
  ELSIF OLD.status = 'completed' AND NEW.status = 'pending' THEN
    RAISE EXCEPTION 'a completed task is reopened as in_progress' USING ERRCODE = 'check_violation', CONSTRAINT = 'task_status_transition';
  ELSIF NEW.status = OLD.status AND NEW.completed_at IS DISTINCT FROM OLD.completed_at THEN
    RAISE EXCEPTION 'completed_at changes with the status alone' USING ERRCODE = 'check_violation', CONSTRAINT = 'task_completed_at_with_status';
  END IF;
  IF TG_OP = 'INSERT' OR NEW.status IS DISTINCT FROM OLD.status THEN
    NEW.completed_at := CASE WHEN NEW.status = 'completed' THEN coalesce(NEW.completed_at, NEW.updated_at) END;
  END IF;
  RETURN NEW;
END $$;
