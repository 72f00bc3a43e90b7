/*
 * http_job.c - where a job connects and what it runs: made by a handler, freed after its outcome was told.
 *
 * A job belongs to its maker until hp_submit(), and to the pool from then on: it ends with one call of done(), or with hp_cancel() and none.
 * Targets hold passwords, which are wiped when they are freed; the pool tells targets apart by a hash of all keywords and values.
 *
 * Bounds: HP_MAX_KEYWORDS of a target, HT_MAX_BODY_BYTES of outcome, a deadline from the beginning.  Nothing here outlives the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "http_pool.h"

bool
hp_target_add(HpTarget *target, const char *keyword, const char *value)
{
	if (target->n == HP_MAX_KEYWORDS || !(target->value[target->n] = strdup(value)))
		return false;
	target->keyword[target->n++] = keyword;
	return true;
}

void
hp_target_free(HpTarget *target)
{
	for (int i = 0; i < target->n; i++)
		ht_free_secret(target->value[i]);
	target->n = 0;
}

bool
hp_target_key(const HpTarget *target, uint8_t key[32])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int len = 32;
	bool		ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

	for (int i = 0; i < target->n && ok; i++)
		ok = EVP_DigestUpdate(ctx, target->keyword[i], strlen(target->keyword[i]) + 1) &&
			EVP_DigestUpdate(ctx, target->value[i], strlen(target->value[i]) + 1);
	ok = ok && EVP_DigestFinal_ex(ctx, key, &len);
	EVP_MD_CTX_free(ctx);
	return ok;
}

HpJob *
hp_job(int nstatements)
{
	HpJob	   *job = calloc(1, sizeof(HpJob));

	if (!job)
		return NULL;
	job->statements = calloc(nstatements, sizeof(HpStatement));
	if (!job->statements)
	{
		free(job);
		return NULL;
	}
	job->nstatements = nstatements;
	job->out = ht_buf(HT_MAX_BODY_BYTES);
	job->deadline_ms = ht_now_ms() + ht_request_timeout_ms;
	return job;
}

void
hp_free_statements(HpJob *job)
{
	for (int i = 0; i < job->nstatements && job->statements; i++)
	{
		for (int p = 0; p < job->statements[i].nparams; p++)
			free(job->statements[i].params[p]);
		free(job->statements[i].params);
		free(job->statements[i].sql);
	}
	free(job->statements);
	job->statements = NULL;
}

void
hp_job_free(HpJob *job)
{
	hp_free_statements(job);
	hp_target_free(&job->target);
	ht_buf_free(&job->out);
	free(job);
}

void
hp_finish(HpJob *job)
{
	if (job->out.failed)
		hp_fail(job, 507, "53200", "out of memory");
	job->done(job, job->arg);
	hp_job_free(job);
}
