/* http_console.c */
#include "postgres.h"

#include "http_server.h"

bool
ht_console_request(HtRequest *r)
{
	return false;
}
