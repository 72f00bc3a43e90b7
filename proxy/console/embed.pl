#!/usr/bin/perl
# embed.pl - the page's files as C, so that the library is one file: embed.pl DIRECTORY > console_assets.c
#
# SPDX-License-Identifier: Apache-2.0
use strict;
use warnings;

my %types = ('index.html' => 'text/html; charset=utf-8', 'console.css' => 'text/css; charset=utf-8', 'console.js' => 'text/javascript; charset=utf-8');
my ($dir) = @ARGV;

print "/* made by console/embed.pl */\n#include \"postgres.h\"\n\n#include \"http_assets.h\"\n\n";
my $table = '';
for my $name (sort keys %types)
{
	open my $f, '<:raw', "$dir/$name" or die "$dir/$name: $!";
	my $data = do { local $/; <$f> };
	(my $c = $name) =~ s/\W/_/g;
	my @bytes = map { sprintf '0x%02x', ord } split //, $data;
	print "static const unsigned char $c\[] = {\n";
	while (my @line = splice @bytes, 0, 24) { print "\t", join(', ', @line), ",\n"; }
	print "};\n\n";
	$table .= "\t{\"$name\", \"$types{$name}\", (const char *) $c, sizeof($c)},\n";
}
print "const HtAsset ht_assets[] = {\n$table\t{NULL, NULL, NULL, 0}\n};\n";
