# What SciPy lacks or does otherwise. Reads lines "name task x... | y...", writes lines "name task number...".
lines <- readLines(file("stdin"))
show <- function(name, task, ...) cat(name, task, sprintf("%.17g", c(...)), "\n")
cat("version", R.version$major, R.version$minor, "\n")
for (line in lines) {
  words <- strsplit(line, " ")[[1]]
  rest <- words[-(1:2)]
  bar <- which(rest == "|")
  x <- as.numeric(rest[seq_len(bar - 1)])
  y <- as.numeric(rest[-seq_len(bar)])
  switch(words[2],
    ks = show(words[1], "ks", suppressWarnings(ks.test(x, y, exact = TRUE))$p.value),
    hl = show(words[1], "hl", suppressWarnings(wilcox.test(x, y, conf.int = TRUE, exact = TRUE))$estimate),
    wilcox = show(words[1], "wilcox", wilcox.test(x, y, exact = TRUE)$p.value),
    power = show(words[1], "power", power.t.test(n = x[1], delta = x[2], sd = 1, sig.level = x[3], strict = TRUE)$power),
    adjust = for (method in c("holm", "BH", "BY")) show(words[1], method, p.adjust(x, method))
  )
}
