-- The words of a new task are new too: nothing is looked for that they would be in conflict with, which takes a look into the
-- index and a record more in the WAL.
CREATE OR REPLACE FUNCTION task_search_keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO tasks_search (task_id, words)
      VALUES (NEW.id, task_words(NEW.title, NEW.labels, NEW.category, NEW.summary, NEW.description));
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO tasks_search (task_id, words)
      VALUES (NEW.id, task_words(NEW.title, NEW.labels, NEW.category, NEW.summary, NEW.description))
      ON CONFLICT (task_id) DO UPDATE SET words = excluded.words;
  ELSE
    DELETE FROM tasks_search WHERE task_id = OLD.id;
  END IF;
  RETURN NULL;
END $$;
