-- The same rules as the model has, written shorter. PostgreSQL reads each CHECK of a table from its stored form with every INSERT
-- and UPDATE (ExecRelCheck): as Django had written them these were 15,000 characters, and a seventh of what an INSERT cost.
ALTER TABLE tasks_task
  DROP CONSTRAINT task_title_not_empty,
  DROP CONSTRAINT task_priority,
  DROP CONSTRAINT task_status,
  DROP CONSTRAINT task_completed_at_with_status,
  DROP CONSTRAINT task_not_its_own_parent,
  DROP CONSTRAINT task_years,
  DROP CONSTRAINT task_labels,
  ADD CONSTRAINT task_title_not_empty CHECK (title <> '') NOT VALID,
  ADD CONSTRAINT task_priority CHECK (priority = ANY ('{low,medium,high}')) NOT VALID,
  ADD CONSTRAINT task_status CHECK (status = ANY ('{pending,in_progress,completed}')) NOT VALID,
  ADD CONSTRAINT task_completed_at_with_status CHECK ((status = 'completed') = (completed_at IS NOT NULL)) NOT VALID,
  ADD CONSTRAINT task_not_its_own_parent CHECK (parent_id <> id) NOT VALID,
  -- LEAST and GREATEST pass over what is null.
  ADD CONSTRAINT task_years CHECK (
    least(due_at, created_at, updated_at, completed_at) >= '0001-01-01 00:00:00+00'
    AND greatest(due_at, created_at, updated_at, completed_at) <= '9999-12-31 23:59:59.999999+00') NOT VALID,
  -- Of an empty array array_ndims is null, which no CHECK minds.
  ADD CONSTRAINT task_labels CHECK (
    array_ndims(labels) = 1 AND cardinality(labels) <= 50 AND array_position(labels, NULL) IS NULL AND '' <> ALL (labels)) NOT VALID;
