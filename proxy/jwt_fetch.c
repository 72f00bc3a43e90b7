/*
 * jwt_fetch.c - fetches keys of token issuers, in threads of the HTTP worker's loop.
 *
 * Bounds: MAX_FETCHES at once, FETCH_SECONDS and PX_JWT_DOCUMENT bytes each, no redirects, http and https only.  What comes must be a JSON
 * object with "keys", else the old document stays.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <curl/curl.h>
#include <jansson.h>
#include <signal.h>
#include <time.h>

#include "http_worker.h"
#include "jwt_fetch.h"

#define MAX_FETCHES 4
#define FETCH_SECONDS 8L

typedef struct Fetch
{
	uv_work_t	work;
	char		url[PX_JWT_URL];
	char		document[PX_JWT_DOCUMENT];
	size_t		len;
	bool		ok;
	char		error[CURL_ERROR_SIZE];
} Fetch;

static int	fetches;

static size_t
take_bytes(char *data, size_t size, size_t n, void *arg)
{
	Fetch	   *f = arg;

	if (n > sizeof(f->document) - f->len)
		return 0;				/* too long: ends the transfer */
	memcpy(f->document + f->len, data, n);
	f->len += n;
	return n;
}

/* In a thread: nothing of the server's here. */
static void
fetch_thread(uv_work_t *work)
{
	Fetch	   *f = (Fetch *) work;
	CURL	   *curl = curl_easy_init();
	long		status = 0;
	json_t	   *json;

	if (!curl)
		return;
	curl_easy_setopt(curl, CURLOPT_URL, f->url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, FETCH_SECONDS);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, f);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, f->error);
	if (curl_easy_perform(curl) == CURLE_OK && curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK && status == 200)
	{
		json = json_loadb(f->document, f->len, 0, NULL);
		f->ok = json_is_array(json_object_get(json, "keys"));
		if (!f->ok)
			strlcpy(f->error, "not a document of keys", sizeof(f->error));
		json_decref(json);
	}
	else if (status != 0)
		snprintf(f->error, sizeof(f->error), "status %ld", status);
	curl_easy_cleanup(curl);
}

static void
fetch_done(uv_work_t *work, int status)
{
	Fetch	   *f = (Fetch *) work;

	if (!f->ok)
		ereport(LOG, (errmsg("could not fetch keys of a token issuer from \"%s\": %s", f->url, f->error)));
	px_jwt_fetched(f->url, f->ok ? f->document : NULL, f->len, time(NULL));
	free(f);
	fetches--;
}

static bool
start_fetch(const char *url)
{
	Fetch	   *f = calloc(1, sizeof(Fetch));
	sigset_t	all,
				before;
	int			rc;

	if (!f)
		return false;
	strlcpy(f->url, url, sizeof(f->url));
	/* threads inherit the mask: signals are for the main thread alone */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = uv_queue_work(&ht_worker.loop, &f->work, fetch_thread, fetch_done);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
		free(f);
	else
		fetches++;
	return rc == 0;
}

void
px_jwt_tick(void)
{
	char		url[PX_JWT_URL];
	static bool ready = false;

	if (!ready)
		ready = curl_global_init(CURL_GLOBAL_DEFAULT) == 0;
	while (ready && fetches < MAX_FETCHES && px_jwt_next_wanted(url, time(NULL)))
		if (!start_fetch(url))
			px_jwt_fetched(url, NULL, 0, time(NULL));
}
