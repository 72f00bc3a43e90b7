/*
 * neon_tenant_guard.c - see neon_tenant_guard.h.
 *
 * A tenant logs in to nodes as neon_t_<id>.  Data is checked by whoever serves it; this is about everything else that an ordinary role may
 * do on a PostgreSQL server: read catalogs that name the other tenants, see their activity, take locks, fill disks and memory.
 *
 * Invariant: a session that logged in as a tenant runs a statement of its client only if the statement is by itself in its message and is
 * CALL or SELECT of listed functions with constants and parameters as arguments (or SELECT of a plain constant: a sign of life).
 * What those functions run themselves is theirs and is not looked at: `nesting` counts how deep we are in one.
 *
 *	- Statements are judged after parse analysis, which knows functions by identity.  Analysis itself can say things: the input function of
 *	  a literal knows which roles there are.  So any error of a statement that was not accepted is replaced by the refusal; the
 *	  server's log keeps the first one.  (Needs log_min_messages at error or below, as it is unless somebody wants no errors logged.)
 *	- Function calls of the fastpath protocol are not statements: they are caught where the server announces the execution of a function
 *	  outside of any statement.
 *	- Settings come only with the startup packet, and only harmless ones.
 *	- A transaction ends with its statement: rows are fetched all at once, and what is begun and not finished times out.  Otherwise a
 *	  tenant could keep locks and snapshots.
 *	- A session whose role was dropped ends at its next statement.
 *
 * The role that counts is the one that logged in: a superuser who does SET ROLE is not held back, nor are background workers.
 *
 * Locks: none.  Crashes: no state outside the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "neon_tenant_guard.h"

#define MAX_EXTENSIONS			4
#define STATEMENT_TIMEOUT_TEXT	"1800000"	/* ms; streams are exempt */

typedef struct GuardedExtension
{
	const char *extension;
	const char *const *functions;
	char	   *const *database;
} GuardedExtension;

/* One list a process, whichever module's copy of this file came first. */
typedef struct TenantGuard
{
	int			count;
	GuardedExtension extensions[MAX_EXTENSIONS];
} TenantGuard;

/* What a startup packet may set.  None of these changes what a function of ours does, apart from how it writes a time. */
static const char *const harmless_settings[] = {
	"application_name", "client_encoding", "datestyle", "extra_float_digits", "intervalstyle", "timezone",
	"neon.tenant_id", "neon.timeline_id", "neon.term"
};

static TenantGuard *guard;
static bool guarded = false;	/* this session is a tenant's */
static int	nesting = 0;		/* inside of a statement that was accepted */
static char *accepted = NULL;	/* the message that was accepted last */

static ClientAuthentication_hook_type prev_client_authentication;
static post_parse_analyze_hook_type prev_post_parse_analyze;
static ProcessUtility_hook_type prev_process_utility;
static ExecutorStart_hook_type prev_executor_start;
static ExecutorRun_hook_type prev_executor_run;
static ExecutorFinish_hook_type prev_executor_finish;
static ExecutorEnd_hook_type prev_executor_end;
static object_access_hook_type prev_object_access;
static emit_log_hook_type prev_emit_log;

/* ---- refusal ---- */

static char *
list_of_functions(void)
{
	StringInfoData s;

	initStringInfo(&s);
	for (int i = 0; i < guard->count; i++)
		for (const char *const *f = guard->extensions[i].functions; *f; f++)
			appendStringInfo(&s, "%s%s.%s", s.len ? ", " : "", guard->extensions[i].extension, *f);
	return s.data;
}

#define REFUSAL_MESSAGE	"permission denied: a tenant's session on this server can only call the functions that are meant for it"
#define REFUSAL_HINT	"Run SQL on an endpoint of the tenant. Here there are, one in a message and with constants or parameters: %s."

static void
refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg(REFUSAL_MESSAGE),
			 errhint(REFUSAL_HINT, list_of_functions())));
}

/* Whatever was wrong with a statement that was not accepted, its client hears the same. */
static void
make_it_a_refusal(ErrorData *edata)
{
	if (edata->message && strcmp(edata->message, REFUSAL_MESSAGE) != 0)
		edata->detail_log = edata->message;
	edata->sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
	edata->message = pstrdup(REFUSAL_MESSAGE);
	edata->detail = NULL;
	edata->hint = psprintf(REFUSAL_HINT, list_of_functions());
	edata->context = NULL;
	edata->schema_name = edata->table_name = edata->column_name = edata->datatype_name = edata->constraint_name = NULL;
	edata->cursorpos = edata->internalpos = 0;
	edata->internalquery = NULL;
	edata->filename = edata->funcname = NULL;
	edata->lineno = 0;
}

/* Errors that say something about the session or the server, not about what a statement named. */
static bool
is_of_the_session(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):
			return true;
		default:
			return false;
	}
}

static void
guard_emit_log(ErrorData *edata)
{
	if (guarded && !am_walsender && edata->elevel == ERROR && edata->output_to_client && !is_of_the_session(edata->sqlerrcode) &&
		(accepted == NULL || debug_query_string == NULL || strcmp(accepted, debug_query_string) != 0))
		make_it_a_refusal(edata);
	if (prev_emit_log)
		prev_emit_log(edata);
}

/* ---- what may be run ---- */

static bool
is_listed(const GuardedExtension *e, const char *function)
{
	for (const char *const *f = e->functions; *f; f++)
		if (strcmp(*f, function) == 0)
			return true;
	return false;
}

/* By identity: its extension's own, not one of its name. */
static bool
function_is_allowed(Oid function)
{
	Oid			extension = getExtensionOfObject(ProcedureRelationId, function);
	char	   *extension_name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	char	   *name = get_func_name(function);

	for (int i = 0; extension_name && name && i < guard->count; i++)
		if (strcmp(guard->extensions[i].extension, extension_name) == 0)
			return is_listed(&guard->extensions[i], name);
	return false;
}

/* A constant or parameter, in its own type or one of the same bytes. */
static bool
is_plain(Node *node)
{
	while (node && (IsA(node, NamedArgExpr) || IsA(node, RelabelType)))
		node = IsA(node, NamedArgExpr) ? (Node *) ((NamedArgExpr *) node)->arg : (Node *) ((RelabelType *) node)->arg;
	return node && (IsA(node, Const) || (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN));
}

static bool
call_is_allowed(Node *node)
{
	ListCell   *lc;

	if (node == NULL || !IsA(node, FuncExpr))
		return false;
	foreach(lc, ((FuncExpr *) node)->args)
		if (!is_plain(lfirst(lc)))
			return false;
	return function_is_allowed(((FuncExpr *) node)->funcid);
}

/* SELECT 1, 'x' or true.  Of other types even a constant may say something: those of roles print names. */
static bool
is_sign_of_life(Node *node)
{
	Oid			type;

	if (!IsA(node, Const))
		return false;
	type = ((Const *) node)->consttype;
	return type == INT4OID || type == TEXTOID || type == BOOLOID;
}

static bool
select_is_allowed(Query *q)
{
	ListCell   *lc;

	if (q->rtable || q->cteList || q->setOperations || q->groupClause || q->groupingSets || q->havingQual || q->windowClause ||
		q->distinctClause || q->sortClause || q->limitOffset || q->limitCount || q->rowMarks || q->hasAggs || q->hasWindowFuncs ||
		q->hasTargetSRFs || q->hasSubLinks || q->hasModifyingCTE || (q->jointree && (q->jointree->fromlist || q->jointree->quals)))
		return false;
	foreach(lc, q->targetList)
	{
		Node	   *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		if (!is_sign_of_life(expr) && !call_is_allowed(expr))
			return false;
	}
	return true;
}

static bool
query_is_allowed(Query *q)
{
	if (q->commandType == CMD_SELECT)
		return select_is_allowed(q);
	return q->commandType == CMD_UTILITY && IsA(q->utilityStmt, CallStmt) &&
		call_is_allowed((Node *) castNode(CallStmt, q->utilityStmt)->funcexpr);
}

/* Nothing but blanks and semicolons around it: what follows in a message would be analysed under its name. */
static bool
is_by_itself(const char *text, Query *q)
{
	if (text == NULL)
		return false;
	for (int i = 0; i < q->stmt_location; i++)
		if (strchr("; \t\r\n", text[i]) == NULL)
			return false;
	if (q->stmt_len == 0)
		return true;
	for (const char *p = text + Max(q->stmt_location, 0) + q->stmt_len; *p; p++)
		if (strchr("; \t\r\n", *p) == NULL)
			return false;
	return true;
}

static void
check_role_is_there(void)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(GetAuthenticatedUserId())))
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("the role of this session was dropped")));
}

static void
guard_post_parse_analyze(ParseState *pstate, Query *query, JumbleState *jstate)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);
	if (!guarded || nesting > 0)
		return;
	check_role_is_there();
	if (!is_by_itself(pstate->p_sourcetext, query) || !query_is_allowed(query))
		refuse();
	if (accepted == NULL || strcmp(accepted, pstate->p_sourcetext) != 0)
	{
		if (accepted)
			pfree(accepted);
		accepted = NULL;
		accepted = MemoryContextStrdup(TopMemoryContext, pstate->p_sourcetext);
	}
}

/* ---- running it: judged again, and what it runs is its own ---- */

static void
guard_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next = prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	if (guarded && nesting == 0)
	{
		check_role_is_there();
		if (!IsA(pstmt->utilityStmt, CallStmt) || !call_is_allowed((Node *) castNode(CallStmt, pstmt->utilityStmt)->funcexpr))
			refuse();
		if (get_timeout_active(STATEMENT_TIMEOUT))
			disable_timeout(STATEMENT_TIMEOUT, false);
	}
	nesting++;
	PG_TRY();
	{
		next(pstmt, query, read_only_tree, context, params, env, dest, qc);
	}
	PG_FINALLY();
	{
		nesting--;
	}
	PG_END_TRY();
}

static void
guard_executor_start(QueryDesc *desc, int eflags)
{
	ExecutorStart_hook_type next = prev_executor_start ? prev_executor_start : standard_ExecutorStart;

	if (guarded && nesting == 0)
		check_role_is_there();
	nesting++;
	PG_TRY();
	{
		next(desc, eflags);
	}
	PG_FINALLY();
	{
		nesting--;
	}
	PG_END_TRY();
}

static void
guard_executor_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	ExecutorRun_hook_type next = prev_executor_run ? prev_executor_run : standard_ExecutorRun;

	if (guarded && nesting == 0)
	{
		if (count != 0)
			refuse();
		MyXactFlags |= XACT_FLAGS_NEEDIMMEDIATECOMMIT;	/* not only when the client sends Sync */
	}
	nesting++;
	PG_TRY();
	{
		next(desc, direction, count, execute_once);
	}
	PG_FINALLY();
	{
		nesting--;
	}
	PG_END_TRY();
}

static void
guard_executor_finish(QueryDesc *desc)
{
	ExecutorFinish_hook_type next = prev_executor_finish ? prev_executor_finish : standard_ExecutorFinish;

	nesting++;
	PG_TRY();
	{
		next(desc);
	}
	PG_FINALLY();
	{
		nesting--;
	}
	PG_END_TRY();
}

static void
guard_executor_end(QueryDesc *desc)
{
	ExecutorEnd_hook_type next = prev_executor_end ? prev_executor_end : standard_ExecutorEnd;

	nesting++;
	PG_TRY();
	{
		next(desc);
	}
	PG_FINALLY();
	{
		nesting--;
	}
	PG_END_TRY();
}

/* Outside of any statement only the fastpath protocol executes functions. */
static void
guard_object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classid, objectid, subid, arg);
	if (guarded && nesting == 0 && access == OAT_FUNCTION_EXECUTE)
		refuse();
}

/* ---- login ---- */

static void
refuse_setting(const char *name)
{
	ereport(FATAL,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set parameter \"%s\" in a tenant's session", name),
			 errhint("Leave it out of the connection's options.")));
}

static void
check_setting(const char *name)
{
	for (int i = 0; i < lengthof(harmless_settings); i++)
		if (pg_strcasecmp(harmless_settings[i], name) == 0)
			return;
	refuse_setting(name);
}

/* Of the switches a server takes, only -c name=value and --name=value. */
static void
check_options(const char *options)
{
	char	  **args = palloc0(((strlen(options) + 1) / 2 + 2) * sizeof(char *));
	int			count = 0;

	pg_split_opts(args, &count, options);
	for (int i = 0; i < count; i++)
	{
		const char *setting = NULL;
		char	   *name,
				   *value;

		if (strcmp(args[i], "-c") == 0 && i + 1 < count)
			setting = args[++i];
		else if (strncmp(args[i], "-c", 2) == 0 || strncmp(args[i], "--", 2) == 0)
			setting = args[i] + 2;
		if (setting == NULL || *setting == '\0')
			refuse_setting(args[i]);
		ParseLongOption(setting, &name, &value);
		check_setting(name);
	}
}

static void
check_login(Port *port)
{
	bool		known = false;

	/* Replication connections are the module's, which took them over, or are refused to all but superusers by the server. */
	if (am_walsender)
		return;
	for (int i = 0; i < guard->count; i++)
		known |= *guard->extensions[i].database && strcmp(*guard->extensions[i].database, port->database_name) == 0;
	if (!known)
		ereport(FATAL,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for this database"),
				 errhint("Connect to database \"%s\".", *guard->extensions[0].database)));
	if (port->cmdline_options)
		check_options(port->cmdline_options);
	for (int i = 0; i < list_length(port->guc_options); i += 2) /* names and values in turn */
		check_setting(list_nth(port->guc_options, i));
	SetConfigOption("statement_timeout", STATEMENT_TIMEOUT_TEXT, PGC_SUSET, PGC_S_OVERRIDE);
}

static void
guard_client_authentication(Port *port, int status)
{
	/* First: a module behind us may take the connection over and never return. */
	if (status == STATUS_OK && strncmp(port->user_name, NEON_TENANT_ROLE_PREFIX, strlen(NEON_TENANT_ROLE_PREFIX)) == 0)
	{
		guarded = true;
		check_login(port);
	}
	if (prev_client_authentication)
		prev_client_authentication(port, status);
}

/* ---- start ---- */

static void
install(void)
{
	prev_client_authentication = ClientAuthentication_hook;
	ClientAuthentication_hook = guard_client_authentication;
	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = guard_post_parse_analyze;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_process_utility;
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = guard_executor_start;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = guard_executor_run;
	prev_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = guard_executor_finish;
	prev_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = guard_executor_end;
	prev_object_access = object_access_hook;
	object_access_hook = guard_object_access;
	prev_emit_log = emit_log_hook;
	emit_log_hook = guard_emit_log;
}

void
neon_tenant_guard_init(const char *extension, const char *const *functions, char *const *database)
{
	TenantGuard **shared = (TenantGuard **) find_rendezvous_variable("neon_tenant_guard");

	if (!process_shared_preload_libraries_in_progress)
		elog(ERROR, "neon_tenant_guard_init called after start");
	if (*shared == NULL)
	{
		*shared = MemoryContextAllocZero(TopMemoryContext, sizeof(TenantGuard));
		guard = *shared;
		install();
	}
	if ((*shared)->count == MAX_EXTENSIONS)
		elog(ERROR, "too many extensions for the tenants' guard");
	(*shared)->extensions[(*shared)->count++] = (GuardedExtension) {extension, functions, database};
}
